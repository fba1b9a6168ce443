#include "control/log/access_log.h"

#include <pthread.h>

#include <algorithm>

namespace hud {
namespace {

// A worker's queue holds limits::kConnectionRecords: at 40,000 connections a second on one worker, 100 ms.
constexpr auto kShortestPause = std::chrono::milliseconds(10);
constexpr auto kLongestPause = std::chrono::milliseconds(80);

std::string_view HelloName(const ConnectionRecord& record) {
  switch (record.hello) {
    case HelloVerdict::kNeedMore: return "incomplete";
    case HelloVerdict::kComplete: return record.tls13 ? "tls13" : "tls";
    case HelloVerdict::kMalformed: return "malformed";
    case HelloVerdict::kTooLarge: return "too_large";
    case HelloVerdict::kNotTls: break;
  }
  switch (record.not_tls) {
    case NotTlsKind::kSslv2: return "sslv2";
    case NotTlsKind::kHttp: return "http";
    case NotTlsKind::kAlert: return "alert";
    case NotTlsKind::kChangeCipherSpec: return "change_cipher_spec";
    case NotTlsKind::kProxyHeader: return "proxy_header";
    case NotTlsKind::kNone:
    case NotTlsKind::kOther: return "not_tls";
  }
  return "not_tls";
}

}  // namespace

bool IsUnusualClose(CloseReason reason) {
  switch (reason) {
    case CloseReason::kDone:
    case CloseReason::kClientReset:
    case CloseReason::kClientGoneInHello:
    case CloseReason::kClientGoneInDial:
    case CloseReason::kIdleTimeout:
    case CloseReason::kHalfClosedTimeout: return false;
    default: return true;
  }
}

LogLine FormatConnection(const ConnectionRecord& record, LogFormat format) {
  LogLine line(format, "connection");
  line.Hex16("id", record.id);
  line.Text("listener", record.listener.view());
  line.Text("client", record.client.ToSocketAddress().ToString());
  if (record.balancer) line.Text("balancer", record.balancer.ToSocketAddress().ToString());
  line.Text("hello", HelloName(record));
  if (record.flaw != HelloFlaw::kNone) line.Text("flaw", HelloFlawName(record.flaw));
  if (!record.server_name.empty()) line.Text("sni", record.server_name.view());
  if (record.ech) line.Flag("ech", true);
  if (record.early_data) line.Flag("early_data", true);
  if (!record.pool.empty()) {
    // The route's number in its listener's configuration, from 1 as in error messages; the default pool has none.
    if (record.route != 0xffff) {
      line.Number("route", int64_t{record.route} + 1);
    } else {
      line.Text("route", "default");
    }
    line.Text("pool", record.pool.view());
    line.Text("why", ChoiceReasonName(record.reason));
  }
  if (!record.node.empty()) {
    line.Text("node", record.node.view());
    line.Text("node_address", record.node_address.view());
  }
  if (record.local) line.Text("local_address", record.local.ToSocketAddress().ToString());
  line.Text("offered", TokenKindName(record.offered));
  if (record.offered != TokenKind::kNone) {
    line.Hex8("token", record.token_digest);
    line.Text("resumed", ResumptionName(record.resumption));
  }
  line.Number("in", static_cast<int64_t>(record.bytes_in));
  line.Number("out", static_cast<int64_t>(record.bytes_out));
  line.Seconds("hello_s", record.hello_time);
  line.Seconds("connect_s", record.connect_time);
  line.Seconds("total_s", record.total_time);
  line.Number("attempts", record.attempts);
  line.Text("close", CloseReasonName(record.close));
  return line;
}

AccessLog::AccessLog(std::vector<SpscQueue<ConnectionRecord>*> queues, const Log* log, double sample)
    : queues_(std::move(queues)), log_(log), sample_(sample) {
  thread_ = std::thread([this] { Run(); });
}

AccessLog::~AccessLog() {
  stopping_.store(true);
  thread_.join();
}

void AccessLog::Run() {
  ::pthread_setname_np(::pthread_self(), "access-log");
  auto pause = kShortestPause;
  while (true) {
    const bool last = stopping_.load();
    size_t drained = 0;
    for (SpscQueue<ConnectionRecord>* queue : queues_) drained += Drain(*queue);
    if (last) return;
    // Idle, it wakes a dozen times a second.
    pause = drained > 0 ? kShortestPause : std::min(2 * pause, kLongestPause);
    std::this_thread::sleep_for(pause);
  }
}

size_t AccessLog::Drain(SpscQueue<ConnectionRecord>& queue) {
  ConnectionRecord record;
  size_t drained = 0;
  // At most what fits: a worker that goes on filling its queue waits for its next turn.
  while (drained < limits::kConnectionRecords && queue.Pop(record)) {
    ++drained;
    bool wanted = IsUnusualClose(record.close);
    if (!wanted && (owed_ += sample_) >= 1) {
      owed_ -= 1;
      wanted = true;
    }
    if (wanted) log_->Access(FormatConnection(record, log_->format()));
  }
  return drained;
}

}  // namespace hud
