#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/proxy_protocol.h"
#include "core/tls_record.h"
#include "core/token_lookup.h"
#include "ring/worker.h"

namespace hud {
namespace {

constexpr Duration kRejectingTime = std::chrono::seconds(1);

}  // namespace

void Worker::BeginHello(Connection& c) {
  Enter(c, ConnectionState::kHello);
  c.context = std::make_unique<HelloContext>();
  sockaddr_storage peer;
  socklen_t size = sizeof peer;
  if (getpeername(c.fd[Index(Side::kClient)].get(), reinterpret_cast<sockaddr*>(&peer), &size) == 0) {
    c.client_address = SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&peer), size);
  }
  SetTimer(c, now_ + table_->listeners[Raw(c.listener)].hello_deadline);
  RequestRecv(c, Side::kClient);
}

// Appends to what is held of the client's first bytes; false when this worker's budget for them is used up.
bool Worker::Hold(Connection& c, Bytes bytes) {
  if (held_hello_bytes_ + bytes.size() > options_.hello_budget_bytes) return false;
  PrivateBytes& held = c.direction[Index(Side::kClient)].residue[0];
  const size_t needed = held.size + bytes.size();
  if (needed > held.capacity) {
    const auto capacity = static_cast<uint32_t>(std::max<size_t>(needed, size_t{held.capacity} * 2));
    auto grown = std::make_unique_for_overwrite<uint8_t[]>(capacity);
    if (held.size > 0) std::memcpy(grown.get(), held.data.get(), held.size);
    counters_.private_bytes.Add(capacity - held.capacity);
    held.data = std::move(grown);
    held.capacity = capacity;
  }
  std::memcpy(held.data.get() + held.size, bytes.data(), bytes.size());
  held.size += static_cast<uint32_t>(bytes.size());
  held_hello_bytes_ += bytes.size();
  return true;
}

void Worker::OnHelloBytes(Connection& c, Bytes bytes) {
  c.last_activity = now_;
  c.direction[Index(Side::kClient)].bytes += bytes.size();
  if (!Hold(c, bytes)) {
    counters_.over_limit.Add();
    return Terminate(c, CloseReason::kOverLimit);
  }
  JudgeHello(c);
}

// On a listener that expects it: the PROXY header comes off the front of what is held. False: not yet, or closed.
bool Worker::TakeProxyHeader(Connection& c) {
  PrivateBytes& held = c.direction[Index(Side::kClient)].residue[0];
  ProxyHeader header;
  switch (ParseProxyHeader(held.rest(), header)) {
    case ProxyHeaderVerdict::kNeedMore: RequestRecv(c, Side::kClient); return false;
    case ProxyHeaderVerdict::kMalformed: Terminate(c, CloseReason::kProxyHeader); return false;
    case ProxyHeaderVerdict::kComplete: break;
  }
  if (header.source.family() != AF_UNSPEC) {
    c.client_address = header.source;
    c.local_address = header.destination;
  }
  held.size -= static_cast<uint32_t>(header.bytes_used);
  held_hello_bytes_ -= header.bytes_used;
  std::memmove(held.data.get(), held.data.get() + header.bytes_used, held.size);
  c.direction[Index(Side::kClient)].bytes = held.size;
  c.context->proxy_header_taken = true;
  return true;
}

void Worker::JudgeHello(Connection& c) {
  const ListenerView& listener = table_->listeners[Raw(c.listener)];
  if (listener.accept_proxy_protocol && !c.context->proxy_header_taken && !TakeProxyHeader(c)) return;
  const Bytes held = c.direction[Index(Side::kClient)].residue[0].rest();
  const HelloVerdict verdict = ParseClientHello(held, listener.hello_max_bytes, c.context->hello);
  if (verdict == HelloVerdict::kNeedMore) return RequestRecv(c, Side::kClient);
  HelloDone(c, verdict);
}

void Worker::HelloDone(Connection& c, HelloVerdict verdict) {
  c.hello_verdict = verdict;
  c.hello_time = now_ - c.accepted_at;
  ClientHello& hello = c.context->hello;
  switch (verdict) {
    case HelloVerdict::kComplete:
      counters_.hello_complete.Add();
      c.context->parsed = true;
      c.server_name = hello.server_name();
      c.tls13 = hello.offers_tls13;
      c.early_data = hello.early_data;
      c.ech = hello.ech;
      if (const TokenCandidates candidates = CandidatesOf(hello); candidates.count > 0) {
        c.token_digest = static_cast<uint32_t>(SipHash(options_.digest_key, candidates.items[0].token->head_bytes()));
      }
      break;
    case HelloVerdict::kNotTls:
      counters_.hello_not_tls.Add();
      c.not_tls = ClassifyNotTls(c.direction[Index(Side::kClient)].residue[0].rest());
      counters_.not_tls[static_cast<size_t>(c.not_tls)].Add();
      break;
    case HelloVerdict::kMalformed: counters_.hello_malformed.Add(); break;
    case HelloVerdict::kTooLarge:
      counters_.hello_too_large.Add();
      return Terminate(c, CloseReason::kHelloTooLarge);
    case HelloVerdict::kNeedMore: HUD_CHECK(false);
  }
  c.route = ChooseRoute(table_->listeners[Raw(c.listener)], c.context->parsed ? &hello : nullptr);
  if (c.route.pool == PoolIndex::kNone) return Reject(c);
  BeginDial(c);
}

// No route and no default pool: a TLS client is told why, then given a moment to end by itself, because closing with
// its bytes unread would reset the connection and could destroy the alert on its way.
void Worker::Reject(Connection& c) {
  Enter(c, ConnectionState::kRejecting);
  const int client = c.fd[Index(Side::kClient)].get();
  if (c.hello_verdict == HelloVerdict::kComplete || c.hello_verdict == HelloVerdict::kMalformed) {
    (void)send(client, tls::kUnrecognizedNameAlert.data(), tls::kUnrecognizedNameAlert.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  shutdown(client, SHUT_WR);
  SetTimer(c, now_ + kRejectingTime);
  RequestRecv(c, Side::kClient);
}

}  // namespace hud
