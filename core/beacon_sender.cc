// Three small machines on one nonce and one sequence:
//   reports   ALIVE until the proxy has answered one, then STILL_HERE, every `every`
//   tokens    a window of datagrams on their way, opened by acknowledgements, halved by losses (TokenFlight)
//   dying     three DYINGs, 100 ms apart, and nothing else any more
#include "core/beacon_sender.h"

#include <algorithm>
#include <deque>

#include "absl/status/status.h"
#include "core/check.h"
#include "core/rate_limit.h"

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
constexpr size_t kReadAhead = 256;  // journal items looked at for one datagram

// How many token datagrams may be on their way, and which of them are lost. Slow start and halving as in TCP; a datagram is
// lost when an answer to a later one does not acknowledge it (RFC 8985), or when nothing is acknowledged for too long.
// Invariant: the next number to send is where the newest datagram on its way ends, or, with none, what is acknowledged.
class TokenFlight {
 public:
  uint64_t cursor() const { return flight_.empty() ? acknowledged_ : flight_.back().end; }
  uint64_t acknowledged() const { return acknowledged_; }
  bool HasRoom() const { return flight_.size() < window_; }
  bool IsEmpty() const { return flight_.empty(); }
  Instant Timeout() const { return last_progress_ + timeout_; }

  void StartAt(uint64_t number) {
    flight_.clear();
    acknowledged_ = number;
  }

  void OnSent(uint64_t end, Instant now) {
    HUD_CHECK(end > cursor());
    if (flight_.empty()) last_progress_ = now;
    flight_.push_back({end, now});
  }

  // `next`: all below it is known. `asked`: when the datagram was sent that this answers. True if something was lost.
  bool OnAnswer(uint64_t next, Instant asked, Instant now) {
    MeasureRoundTrip(now - asked);
    // The proxy knows less than before, or, after a loss, more than was thought.
    if (next < acknowledged_ || next > cursor()) {
      StartAt(next);
      return false;
    }
    if (next > acknowledged_) {
      acknowledged_ = next;
      last_progress_ = now;
      timeout_ = LeastTimeout();
      Grow();
    }
    while (!flight_.empty() && flight_.front().end <= next) flight_.pop_front();
    if (flight_.empty() || flight_.front().sent + ReorderAllowance() >= asked) return false;
    Shrink(window_ / 2);
    return true;
  }

  // True if it is time to send again what has not been acknowledged.
  bool OnTime(Instant now) {
    if (flight_.empty() || now < Timeout()) return false;
    timeout_ = std::min<Duration>(timeout_ * 2, 2s);
    Shrink(2);
    return true;
  }

 private:
  struct Datagram {
    uint64_t end;  // number behind its last item
    Instant sent;
  };

  void MeasureRoundTrip(Duration sample) {
    if (sample < Duration::zero() || sample > 10s) return;
    round_trip_ = round_trip_ == Duration::zero() ? sample : (round_trip_ * 7 + sample) / 8;
  }
  Duration LeastTimeout() const { return std::clamp<Duration>(round_trip_ * 4, 100ms, 2s); }
  Duration ReorderAllowance() const { return std::max<Duration>(round_trip_ / 4, 2ms); }

  void Grow() {
    if (window_ < slow_start_until_ || ++credits_ >= window_) {
      window_ = std::min(window_ + 1, limits::kMaxTokenFlight);
      credits_ = 0;
    }
  }
  void Shrink(size_t window) {
    window_ = slow_start_until_ = std::max<size_t>(window, 2);
    credits_ = 0;
    flight_.clear();  // the cursor goes back to what is acknowledged
  }

  std::deque<Datagram> flight_;
  uint64_t acknowledged_ = 1;
  size_t window_ = 16;
  size_t slow_start_until_ = limits::kMaxTokenFlight;
  size_t credits_ = 0;
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
  Impl(AgentKey k, uint64_t first_epoch, const TokenJournal* j, Duration report_every)
      : key(std::move(k)), mac(key.secret), journal(j), every(report_every), epoch(first_epoch) {}

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

  bool HasTokens() const { return confirmed && journal != nullptr && flight.cursor() <= journal->last(); }

  void PollTokens(Instant now, size_t max, std::vector<std::vector<uint8_t>>* out) {
    if (confirmed && flight.OnTime(now)) ++stats.rewinds;
    while (out->size() < max && HasTokens() && flight.HasRoom() && token_pace.Take(now)) out->push_back(NextTokens(now));
    token_pace_next = token_pace.Next(now);
  }

  // One datagram from the cursor on. What the journal no longer holds is skipped by its base.
  std::vector<uint8_t> NextTokens(Instant now) {
    const uint64_t base = flight.cursor();
    uint64_t first = std::max(base, journal->first());
    std::vector<TokenItem> items = journal->Read(first, kReadAhead, now);
    const auto held = std::find_if(items.begin(), items.end(), [](const TokenItem& item) { return item.length != 0; });
    first += static_cast<uint64_t>(held - items.begin());
    items.erase(items.begin(), held);
    std::vector<uint8_t> body;
    const size_t count = WriteTokensBody(base, first, items, &body);
    stats.tokens_sent += count;
    flight.OnSent(first + count, now);
    return Seal(BeaconType::kTokens, body, now);
  }

  // ---- Dying

  void PollDying(Instant now, std::vector<std::vector<uint8_t>>* out) {
    if (dyings_left == 0 || now < next_dying) return;
    out->push_back(Seal(BeaconType::kDying, {}, now));
    --dyings_left;
    next_dying = now + kDyingEach;
  }

  // ---- What the proxy says

  // Answers what was sent under the present nonce? Then it is no recording: no earlier answer can name such a sequence.
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
      epoch = body.held_epoch + 1;  // our clock went back between two boots
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
    if (flight.OnAnswer(body.next_token, FromMicros(envelope.sent_micros, now), now)) ++stats.rewinds;
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

  const AgentKey key;
  const BeaconMac mac;
  const TokenJournal* const journal;
  const Duration every;

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
  if (s.HasTokens() && s.flight.HasRoom()) next = std::min(next, s.token_pace_next);
  if (s.confirmed && !s.flight.IsEmpty()) next = std::min(next, s.flight.Timeout());
  return next;
}

bool BeaconSender::HeardSince(Instant since) const { return impl_->last_heard >= since; }
bool BeaconSender::Confirmed() const { return impl_->confirmed; }
const BeaconSender::Stats& BeaconSender::stats() const { return impl_->stats; }
uint64_t BeaconSender::next_unacknowledged() const { return impl_->flight.acknowledged(); }

}  // namespace hud
