// Three small machines on one nonce and one sequence:
//   reports   ALIVE until the proxy has answered one, then STILL_HERE, every `every`
//   tokens    a window of datagrams on their way, opened by acknowledgements, halved by losses (TokenFlight)
//   dying     three DYINGs, 100 ms apart, and nothing else any more
#include "core/beacon/beacon_sender.h"

#include <algorithm>

#include "absl/status/status.h"
#include "core/base/check.h"
#include "core/base/rate_limit.h"

namespace hud {
namespace {

using namespace std::chrono_literals;

// A proxy that has not answered yet is asked more often for a while: it may be about to take over from an earlier epoch.
constexpr int kQuickReports = 32;
constexpr Duration kQuickest = 100ms;
constexpr int kDyings = 3;
constexpr Duration kDyingEach = 100ms;
// 2000 token datagrams a second, 20 at once: 100,000 tokens take 1.5 s, and a proxy that polls every 10 ms finds few.
constexpr Duration kTokenDatagramEach = 500us;
constexpr int64_t kTokenDatagramBurst = 20;
constexpr uint64_t kEpochSpread = 1'000'000;
constexpr size_t kFirstWindow = 16, kLeastWindow = 8;
constexpr size_t kAnswersToGrow = 8;
constexpr size_t kReadAhead = 256;  // journal items looked at for one datagram

// How many token datagrams may be on their way, and which of them are lost. The window is a guard for the proxy's
// socket buffer more than for the network, whose random losses it forgives: it shrinks by a quarter. Each answer
// names the datagram that it answers, so one is lost when an answer to a later one has come and none to it (RFC 8985), or
// when nothing is acknowledged for too long.
// Invariant: the datagrams on their way follow on each other, from what is acknowledged to the cursor.
class TokenFlight {
 public:
  struct Range {
    uint64_t begin, end;  // numbers; end 0: as many as fit
  };

  uint64_t cursor() const { return flight_.empty() ? acknowledged_ : flight_.back().end; }
  uint64_t acknowledged() const { return acknowledged_; }
  bool HasRoom() const { return flight_.size() < window_; }
  bool IsEmpty() const { return flight_.empty(); }
  bool HasLost() const { return lost_ > 0; }
  Instant Timeout() const { return last_progress_ + timeout_; }

  void StartAt(uint64_t number) {
    flight_.clear();
    lost_ = 0;
    acknowledged_ = number;
  }

  // What to send next, when there is something: what was lost first.
  Range Next() const {
    for (const Datagram& datagram : flight_) {
      if (datagram.is_lost) return {BeginOf(datagram), datagram.end};
    }
    return {cursor(), 0};
  }

  // What Next() said went out, up to `end`.
  void OnSent(uint64_t begin, uint64_t end, uint64_t sequence, Instant now) {
    if (flight_.empty()) last_progress_ = now;
    for (Datagram& datagram : flight_) {
      if (!datagram.is_lost) continue;
      HUD_CHECK(BeginOf(datagram) == begin && datagram.end == end);
      datagram = {end, sequence, now, false, false};
      --lost_;
      return;
    }
    HUD_CHECK(begin == cursor() && end > begin);
    flight_.push_back({end, sequence, now, false, false});
  }

  // `next`: all below it is known. `answered`: the datagram that this answers, sent at `asked`. True if others are lost.
  bool OnAnswer(uint64_t next, uint64_t answered, Instant asked, uint64_t newest_sequence, Instant now) {
    MeasureRoundTrip(now - asked);
    // The proxy knows less than before, or, after a time without answers, more than was thought.
    if (next < acknowledged_ || next > cursor()) {
      StartAt(next);
      return false;
    }
    if (next > acknowledged_) OnProgress(next, now);
    bool found_lost = false;
    for (Datagram& datagram : flight_) {
      if (datagram.sequence == answered) MarkArrived(datagram);
      if (datagram.has_arrived || datagram.is_lost || datagram.sent + ReorderAllowance() >= asked) continue;
      datagram.is_lost = found_lost = true;
      ++lost_;
      if (datagram.sequence > shrunk_at_) Shrink(window_ * 3 / 4, newest_sequence);
    }
    return found_lost;
  }

  // True if it is time to send again all that has not been acknowledged.
  bool OnTime(uint64_t newest_sequence, Instant now) {
    if (flight_.empty() || now < Timeout()) return false;
    timeout_ = std::min<Duration>(timeout_ * 2, 2s);
    Shrink(kLeastWindow, newest_sequence);
    StartAt(acknowledged_);
    return true;
  }

 private:
  struct Datagram {
    uint64_t end;  // number behind its last item; it begins where the one before ends
    uint64_t sequence;
    Instant sent;
    bool has_arrived, is_lost;
  };

  uint64_t BeginOf(const Datagram& datagram) const {
    return &datagram == &flight_.front() ? acknowledged_ : (&datagram - 1)->end;
  }

  void OnProgress(uint64_t next, Instant now) {
    acknowledged_ = next;
    last_progress_ = now;
    timeout_ = std::clamp<Duration>(round_trip_ * 4, 100ms, 2s);
    while (!flight_.empty() && flight_.front().end <= next) {
      lost_ -= flight_.front().is_lost ? 1 : 0;
      flight_.erase(flight_.begin());
    }
    if (window_ < slow_start_until_ || ++credits_ >= kAnswersToGrow) {
      window_ = std::min(window_ + 1, limits::kMaxTokenFlight);
      credits_ = 0;
    }
  }

  void MarkArrived(Datagram& datagram) {
    datagram.has_arrived = true;
    lost_ -= std::exchange(datagram.is_lost, false) ? 1 : 0;
  }

  void MeasureRoundTrip(Duration sample) {
    if (sample < Duration::zero() || sample > 10s) return;
    round_trip_ = round_trip_ == Duration::zero() ? sample : (round_trip_ * 7 + sample) / 8;
  }
  Duration ReorderAllowance() const { return std::max<Duration>(round_trip_ / 4, 2ms); }

  // Once for all that is lost of what was on its way together.
  void Shrink(size_t window, uint64_t newest_sequence) {
    window_ = slow_start_until_ = std::max(window, kLeastWindow);
    shrunk_at_ = newest_sequence;
    credits_ = 0;
  }

  std::vector<Datagram> flight_;  // at most kMaxTokenFlight
  size_t lost_ = 0;
  uint64_t acknowledged_ = 1;
  size_t window_ = kFirstWindow;
  size_t slow_start_until_ = limits::kMaxTokenFlight;
  size_t credits_ = 0;
  uint64_t shrunk_at_ = 0;  // the newest sequence when the window was last made smaller
  Duration round_trip_{0};
  Duration timeout_ = 250ms;
  Instant last_progress_{};
};

uint64_t Micros(Instant t) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(t.time_since_epoch()).count());
}
// When the datagram was sent that an answer repeats the time of; never in the future, whatever the answer says.
Instant FromMicros(uint64_t micros, Instant now) {
  return Instant(std::chrono::microseconds(static_cast<int64_t>(std::min(micros, Micros(now)))));
}

// Everything but load figures.
bool SaysTheSame(const NodeReport& a, const NodeReport& b) {
  return a.address == b.address && a.pools == b.pools && a.weight == b.weight && a.prefixes == b.prefixes &&
         a.health.ready == b.health.ready;
}

}  // namespace

struct BeaconSender::Impl {
  Impl(AgentKey k, uint64_t e, const TokenJournal* j, Duration report_every)
      : key(std::move(k)), mac(key.secret), journal(j), every(report_every), first_epoch(e), epoch(e) {}

  std::vector<uint8_t> Seal(BeaconType type, Bytes body, Instant now) {
    BeaconEnvelope envelope;
    envelope.direction = BeaconDirection::kToProxy;
    envelope.type = type;
    envelope.node = key.node;
    envelope.epoch = epoch;
    envelope.nonce = nonce;
    envelope.sequence = ++sequence;
    envelope.sent_micros = Micros(now);
    ++stats.sent;
    return SealBeacon(mac, envelope, body);
  }

  // ---- Reports

  Duration ReportInterval() const {
    return confirmed || reports_under_nonce >= kQuickReports ? every : std::min(every, std::max(every / 4, kQuickest));
  }

  void PollReport(Instant now, std::vector<std::vector<uint8_t>>* out) {
    if (!has_report || now < next_report) return;
    std::string why;
    std::vector<std::vector<uint8_t>> bodies;
    HUD_CHECK(WriteReportBodies(report, report_id, &bodies, &why));  // SetReport tried it
    for (const auto& body : bodies) {
      out->push_back(Seal(confirmed ? BeaconType::kStillHere : BeaconType::kAlive, body, now));
    }
    ++reports_under_nonce;
    next_report = now + ReportInterval();
  }

  // ---- Tokens

  bool HasTokens() const {
    if (!confirmed || journal == nullptr) return false;
    return flight.HasLost() || (flight.HasRoom() && flight.cursor() <= journal->last());
  }

  void PollTokens(Instant now, size_t max, std::vector<std::vector<uint8_t>>* out) {
    if (confirmed && flight.OnTime(sequence, now)) ++stats.rewinds;
    while (out->size() < max && HasTokens() && token_pace.Take(now)) out->push_back(NextTokens(now));
    token_pace_next = token_pace.Next(now);
  }

  // One datagram. What the journal no longer holds is skipped by its base.
  std::vector<uint8_t> NextTokens(Instant now) {
    const TokenFlight::Range range = flight.Next();
    const uint64_t held_from = std::max(range.begin, journal->first());
    const size_t wanted = range.end == 0 ? kReadAhead : range.end - std::min(range.end, held_from);
    std::vector<TokenItem> items = journal->Read(held_from, wanted, now);
    const auto first_held = std::find_if(items.begin(), items.end(), [](const auto& item) { return item.length != 0; });
    const uint64_t first = held_from + static_cast<uint64_t>(first_held - items.begin());
    items.erase(items.begin(), first_held);
    std::vector<uint8_t> body;
    const size_t count = WriteTokensBody(range.begin, first, items, &body);
    // What is sent again has only grown smaller since. If the journal forgot all of it, the range ends before `first`.
    const uint64_t end = range.end == 0 ? first + count : range.end;
    stats.tokens_sent += count;
    std::vector<uint8_t> datagram = Seal(BeaconType::kTokens, body, now);
    flight.OnSent(range.begin, end, sequence, now);
    return datagram;
  }

  // ---- Dying

  void PollDying(Instant now, std::vector<std::vector<uint8_t>>* out) {
    if (dyings_left == 0 || now < next_dying) return;
    out->push_back(Seal(BeaconType::kDying, {}, now));
    --dyings_left;
    next_dying = now + kDyingEach;
  }

  // ---- What the proxy says

  // True if the answer names a sequence that was sent under the present nonce, which a recorded answer cannot.
  bool AnswersPresentNonce(uint64_t answered) const { return answered >= first_of_nonce && answered <= sequence; }

  bool HandleChallenge(const BeaconEnvelope& envelope, const ChallengeBody& body, Instant now) {
    if (envelope.nonce == 0 || envelope.nonce == nonce || !AnswersPresentNonce(body.answers_sequence)) return false;
    ++stats.challenges;
    nonce = envelope.nonce;
    first_of_nonce = sequence + 1;
    last_answer = 0;
    confirmed = false;
    reports_under_nonce = 0;
    next_report = now;
    if (dying) {
      // Those that went out under another nonce were not believed. Once: a hostile network must not keep us here.
      if (!std::exchange(dying_again, true)) dyings_left = kDyings;
      next_dying = now;
    } else if (body.held_epoch > epoch) {
      // Our clock went back between two boots. Not simply one more: an earlier boot may have done the same.
      epoch = body.held_epoch + 1 + first_epoch % kEpochSpread;
    }
    return true;
  }

  bool HandleSync(const BeaconEnvelope& envelope, const SyncBody& body, Instant now) {
    if (envelope.nonce != nonce || envelope.sequence <= last_answer || !AnswersPresentNonce(body.answers_sequence)) {
      return false;
    }
    const uint64_t last = journal == nullptr ? 0 : journal->last();
    if (body.next_token == 0 || body.next_token > last + 1) return false;
    ++stats.syncs;
    last_answer = envelope.sequence;
    if (dying) return true;
    if (!std::exchange(confirmed, true)) flight.StartAt(body.next_token);
    const Instant asked = FromMicros(envelope.sent_micros, now);
    if (flight.OnAnswer(body.next_token, body.answers_sequence, asked, sequence, now)) ++stats.losses;
    return true;
  }

  bool Handle(Bytes datagram, Instant now) {
    const std::optional<BeaconEnvelope> envelope = ReadBeaconEnvelope(datagram);
    if (!envelope || envelope->direction != BeaconDirection::kToAgent || envelope->node != key.node ||
        envelope->key_id != mac.key_id() || envelope->epoch != epoch || !mac.Verify(datagram)) {
      return false;
    }
    const Bytes body = BeaconBody(datagram);
    return envelope->type == BeaconType::kChallenge ? HandleChallenge(*envelope, ReadChallengeBody(body), now)
                                                    : HandleSync(*envelope, ReadSyncBody(body), now);
  }

  AgentKey key;
  BeaconMac mac;
  const TokenJournal* const journal;
  const Duration every;

  const uint64_t first_epoch;
  uint64_t epoch;
  uint64_t nonce = 0;           // 0: no proxy heard yet
  uint64_t sequence = 0;
  uint64_t first_of_nonce = 1;  // the first sequence under this nonce
  uint64_t last_answer = 0;     // the newest SYNC under this nonce, by its sequence
  Instant last_heard = Instant::min();
  bool confirmed = false;

  bool has_report = false;
  NodeReport report;
  uint32_t report_id = 0;
  int reports_under_nonce = 0;
  Instant next_report = Instant::min();

  TokenFlight flight;
  RateLimit token_pace{kTokenDatagramEach, kTokenDatagramBurst};
  Instant token_pace_next = Instant::min();

  bool dying = false;
  bool dying_again = false;
  int dyings_left = 0;
  Instant next_dying{};
  Stats stats;
};

BeaconSender::BeaconSender(AgentKey key, uint64_t epoch, const TokenJournal* journal, Duration every)
    : impl_(std::make_unique<Impl>(std::move(key), std::max<uint64_t>(epoch, 1), journal, every)) {}
BeaconSender::~BeaconSender() = default;

absl::Status BeaconSender::SetReport(NodeReport report) {
  std::string why;
  std::vector<std::vector<uint8_t>> bodies;
  if (!WriteReportBodies(report, 0, &bodies, &why)) return absl::InvalidArgumentError(why);
  if (!impl_->has_report || !SaysTheSame(report, impl_->report)) {
    ++impl_->report_id;
    impl_->next_report = Instant::min();
  }
  impl_->has_report = true;
  impl_->report = std::move(report);
  return absl::OkStatus();
}

bool BeaconSender::SetKey(const AgentKey& key) {
  HUD_CHECK(key.node == impl_->key.node);
  if (key.secret == impl_->key.secret) return false;
  impl_->key = key;
  impl_->mac = BeaconMac(key.secret);
  return true;
}

void BeaconSender::Die(Instant now) {
  if (std::exchange(impl_->dying, true)) return;
  impl_->dyings_left = kDyings;
  impl_->next_dying = now;
}

bool BeaconSender::DoneDying() const { return impl_->dying && impl_->dyings_left == 0; }

void BeaconSender::Handle(Bytes datagram, Instant now) {
  if (impl_->Handle(datagram, now)) {
    impl_->last_heard = now;
  } else {
    ++impl_->stats.rejected;
  }
}

std::vector<std::vector<uint8_t>> BeaconSender::Poll(Instant now, size_t max) {
  std::vector<std::vector<uint8_t>> out;
  if (impl_->dying) {
    impl_->PollDying(now, &out);
    return out;
  }
  impl_->PollReport(now, &out);
  impl_->PollTokens(now, max, &out);
  return out;
}

Instant BeaconSender::NextDeadline() const {
  const Impl& s = *impl_;
  if (s.dying) return s.dyings_left == 0 ? Instant::max() : s.next_dying;
  Instant next = s.has_report ? s.next_report : Instant::max();
  if (s.HasTokens()) next = std::min(next, s.token_pace_next);
  if (s.confirmed && !s.flight.IsEmpty()) next = std::min(next, s.flight.Timeout());
  return next;
}

bool BeaconSender::HeardSince(Instant since) const { return impl_->last_heard >= since; }
bool BeaconSender::Confirmed() const { return impl_->confirmed; }
const BeaconSender::Stats& BeaconSender::stats() const { return impl_->stats; }
uint64_t BeaconSender::next_unacknowledged() const { return impl_->flight.acknowledged(); }

}  // namespace hud
