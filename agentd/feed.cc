#include "agentd/feed.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace hud {
namespace {

constexpr size_t kDatagramsPerTurn = 256;
constexpr size_t kSampleBytes = 80;
constexpr Duration kComplainEvery = std::chrono::minutes(1);
constexpr Duration kCountEvery = std::chrono::hours(1);

}  // namespace

absl::StatusOr<Feed> Feed::Open(Kind kind, const std::string& path, const std::string& group, Duration ttl,
                                TokenJournal* journal) {
  absl::StatusOr<DatagramSocket> socket = DatagramSocket::Bind(path, group);
  if (!socket.ok()) return socket.status();
  return Feed(kind, path, group, ttl, journal, *std::move(socket));
}

absl::Status Feed::OpenAgain() {
  absl::StatusOr<DatagramSocket> socket = DatagramSocket::Bind(path_, group_);
  if (!socket.ok()) return socket.status();
  socket_ = *std::move(socket);
  return absl::OkStatus();
}

std::string Feed::Summary() const {
  return absl::StrCat(stats_.lines, " lines: ", stats_.added, " ids, ", stats_.removed, " taken back, ", stats_.without_session,
                      " without a session, ", stats_.rejected, " not in the format");
}

bool Feed::Read(Instant now) {
  const size_t count = socket_.Receive(
      kDatagramsPerTurn, [&](std::string_view datagram, bool truncated) { TakeDatagram(datagram, truncated, now); });
  return count == kDatagramsPerTurn;
}

void Feed::TakeDatagram(std::string_view datagram, bool truncated, Instant now) {
  ++stats_.datagrams;
  // The end of a cut line could pass for a shorter, wrong token.
  if (truncated) return Reject(datagram);
  if (kind_ == Kind::kSyslog) return TakeLine(datagram, now);
  while (!datagram.empty()) {
    const size_t end = std::min(datagram.find('\n'), datagram.size());
    TakeLine(datagram.substr(0, end), now);
    datagram.remove_prefix(std::min(end + 1, datagram.size()));
  }
}

void Feed::TakeLine(std::string_view line, Instant now) {
  ++stats_.lines;
  FeedToken token;
  if (kind_ == Kind::kSyslog) stats_.several_fields += HasSeveralFields(line);
  switch (kind_ == Kind::kSyslog ? ParseSyslogLine(line, token) : ParseTokenLine(line, token)) {
    case FeedVerdict::kNoSession:
      ++stats_.without_session;
      return;
    case FeedVerdict::kRejected:
      return Reject(line);
    case FeedVerdict::kToken:
      break;
  }
  if (token.remove) {
    ++stats_.removed;
    journal_->Withdraw(token.span(), now);
  } else {
    ++stats_.added;
    journal_->Add(token.span(), token.ttl.value_or(ttl_), now);
  }
}

void Feed::Reject(std::string_view line) {
  ++stats_.rejected;
  if (!rejected_sample_.empty()) return;
  rejected_sample_ = line.substr(0, kSampleBytes);
  for (char& c : rejected_sample_) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  if (rejected_sample_.empty()) rejected_sample_ = "(empty)";
}

std::string Feed::TakeCount(Instant now) {
  if (stats_.added == added_told_ || now < next_count_) return {};
  next_count_ = now + kCountEvery;
  added_told_ = stats_.added;
  return absl::StrCat(path_, ": ", stats_.added, stats_.added == 1 ? " session id has" : " session ids have", " come so far");
}

std::string Feed::TakeComplaint(Instant now) {
  if (stats_.several_fields != several_told_ && now >= next_complaint_) {
    next_complaint_ = now + kComplainEvery;
    several_told_ = stats_.several_fields;
    return absl::StrCat(path_, ": ", stats_.several_fields, " lines so far have more than one hud_session=; the last one counts. ",
                        "A client can write one into its request: put the field behind all that clients control");
  }
  if (rejected_sample_.empty() || now < next_complaint_) return {};
  next_complaint_ = now + kComplainEvery;
  const std::string sample = std::exchange(rejected_sample_, {});
  return absl::StrCat(path_, ": not in the format, so skipped: \"", sample, "\" (", stats_.rejected,
                      " lines so far; deploy/hud-agentd.yaml has the format)");
}

}  // namespace hud
