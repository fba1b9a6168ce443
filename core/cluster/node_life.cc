#include "core/cluster/node_life.h"

#include <algorithm>

#include "core/base/check.h"

namespace hud {
namespace {

// How often the end of a silent node's connections is looked at.
constexpr Duration kLook = std::chrono::milliseconds(500);

}  // namespace

NodeLife::NodeLife(Instant now, uint32_t jitter, NodeCounters* counters)
    : jitter_(jitter),
      counters_(counters),
      up_since_(now),
      ejection_(counters),
      reachable_since_(now - kSteadyAfter),
      next_probe_(now + WithJitter(Duration(0))) {}

// Up to a quarter of it, or of the first back-off, later; the same for a node at all times.
Duration NodeLife::WithJitter(Duration duration) const {
  const auto spread = static_cast<int64_t>(jitter_ * 2654435761U >> 24);
  return duration + std::max(duration, kFirstBackoff) * spread / 1024;
}

bool NodeLife::IsForgettable(Instant now) const {
  return verdicts_.agent == AgentVerdict::kDead && now - dead_since_ >= kForgetDeadAfter &&
         verdicts_.by_operator == OperatorVerdict::kOn;
}

std::optional<Instant> NodeLife::dead_since() const {
  return verdicts_.agent == AgentVerdict::kDead ? std::optional(dead_since_) : std::nullopt;
}

// ---- Transitions ----------------------------------------------------------------------------------------------------

void NodeLife::NoteUsable(bool was_usable, Instant now) {
  if (!was_usable && verdicts_.Usable()) up_since_ = now;
}

// Back from there it begins as one that comes up.
void NodeLife::SetEjected(bool ejected, Instant now) {
  if (verdicts_.ejected && !ejected) up_since_ = now;
  verdicts_.ejected = ejected;
}

void NodeLife::Eject(const Rules& rules, Instant now) {
  ejection_.Begin(rules.eject, now);
  SetEjected(true, now);
}

void NodeLife::SetAgent(AgentVerdict verdict, Instant now) {
  if (verdict == verdicts_.agent) return;
  const bool was_usable = verdicts_.Usable();
  if (verdict == AgentVerdict::kDead) dead_since_ = now;
  verdicts_.agent = verdict;
  NoteUsable(was_usable, now);
}

void NodeLife::SetReachable(bool reachable, Instant now) {
  if (reachable == verdicts_.reachable) return;
  const bool was_usable = verdicts_.Usable();
  verdicts_.reachable = reachable;
  if (reachable) {
    reachable_since_ = now;
  } else {
    backoff_ = now - reachable_since_ >= kSteadyAfter ? kFirstBackoff : std::min(2 * backoff_, kMostBackoff);
    next_probe_ = now + WithJitter(backoff_);
  }
  NoteUsable(was_usable, now);
}

void NodeLife::SetOperatorVerdict(OperatorVerdict verdict, Instant now) {
  const bool was_usable = verdicts_.Usable();
  verdicts_.by_operator = verdict;
  NoteUsable(was_usable, now);
}

// ---- The agent ------------------------------------------------------------------------------------------------------

bool NodeLife::OnReport(uint64_t epoch, bool ready, Instant now) {
  last_heard_ = has_agent_ ? std::max(last_heard_, now) : now;
  doubted_ = Duration(0);
  if (said_dying_ && epoch == epoch_) return false;
  const bool is_back = !has_agent_ || epoch != epoch_ || verdicts_.agent == AgentVerdict::kDead;
  has_agent_ = is_proven_ = true;
  epoch_ = epoch;
  said_dying_ = false;
  SetAgent(ready ? AgentVerdict::kAlive : AgentVerdict::kNotReady, now);
  // A machine that was switched on again need not wait for the end of a long back-off.
  if (is_back && ready && !verdicts_.reachable) ProbeSoon(now);
  return true;
}

void NodeLife::OnDying(uint64_t epoch, Instant now) {
  const bool again = said_dying_ && epoch == epoch_;
  last_heard_ = has_agent_ ? std::max(last_heard_, now) : now;
  has_agent_ = true;
  epoch_ = epoch;
  said_dying_ = true;
  if (!again) SetAgent(AgentVerdict::kDying, now);
}

void NodeLife::OnHeard(Instant now) {
  if (!has_agent_) return;
  last_heard_ = std::max(last_heard_, now);
  doubted_ = Duration(0);
  if (verdicts_.agent == AgentVerdict::kSilent) SetAgent(AgentVerdict::kAlive, now);
}

// ---- Time -----------------------------------------------------------------------------------------------------------

void NodeLife::Tick(const Rules& rules, Instant now, Duration paused, Duration doubt) {
  in_doubt_ = doubt > Duration(0);
  const Duration believed = std::clamp<Duration>(kMostDoubt * rules.dead_after - doubted_, Duration(0), doubt);
  doubted_ += believed;
  if (has_agent_) last_heard_ = std::max(last_heard_, std::min(now, last_heard_ + paused + believed));
  is_proven_ |= counters_->total.load(std::memory_order_relaxed) > total_elsewhere_;
  JudgeReachability(rules, now);
  JudgeSilence(rules, now);
  if (ejection_.Tick(rules.eject, now)) SetEjected(false, now);
}

void NodeLife::JudgeReachability(const Rules& rules, Instant now) {
  const uint32_t failures = counters_->connect_failures.load(std::memory_order_relaxed);
  if (rules.fall == 0) {
    connects_ = true;
    return SetReachable(true, now);
  }
  // While down, a lower count than before says that a connect succeeded since: a worker's, that was under way or had no
  // other node.
  if (connects_ ? failures >= rules.fall : failures < failures_seen_) connects_ = failures < rules.fall;
  failures_seen_ = failures;
  SetReachable(connects_ && check_failures_ < rules.fall, now);
}

void NodeLife::JudgeSilence(const Rules& rules, Instant now) {
  if (!has_agent_ || verdicts_.agent == AgentVerdict::kDead || !IsSilent(rules, now)) return;
  if (verdicts_.agent == AgentVerdict::kAlive) SetAgent(AgentVerdict::kSilent, now);
  // What was not ready or dying stays so: silence makes nothing usable.
  if (counters_->active.load(std::memory_order_relaxed) > 0) return;
  if (in_doubt_ && verdicts_.agent == AgentVerdict::kSilent) return;
  SetAgent(AgentVerdict::kDead, now);
  if (rules.is_static) {
    backoff_ = kFirstBackoff;
    ProbeSoon(now);
  }
}

// ---- Connects -------------------------------------------------------------------------------------------------------

// A dead static node becomes one without an agent as soon as a connect succeeds.
bool NodeLife::NeedsProof(const Rules& rules, Instant now) const {
  if (!rules.is_static || verdicts_.agent != AgentVerdict::kDead) return false;
  return !said_dying_ || now - dead_since_ >= kForgetDeadAfter;
}

bool NodeLife::WantsProbe(const Rules& rules, Instant now) const {
  if (NeedsProof(rules, now)) return true;
  if (verdicts_.agent == AgentVerdict::kDead || verdicts_.agent == AgentVerdict::kDying) return false;
  if (!verdicts_.reachable || (in_doubt_ && verdicts_.agent == AgentVerdict::kSilent)) return true;
  return rules.is_static && verdicts_.agent == AgentVerdict::kNone && rules.health_interval.has_value();
}

// Now, but not more often than once in kFirstBackoff, whatever the agent does.
void NodeLife::ProbeSoon(Instant now) {
  const Instant soon = last_probe_ == Instant::min() ? now : std::max(now, last_probe_ + kFirstBackoff);
  next_probe_ = std::min(next_probe_, soon);
}

bool NodeLife::TakeProbe(const Rules& rules, Instant now) {
  if (probing_ && now - last_probe_ < kProbeLost) return false;
  const bool asks = verdicts_.Usable() && ejection_.WantsCheck(rules.eject, now) && MayAsk(now);
  if (!asks && (now < next_probe_ || !WantsProbe(rules, now))) return false;
  asks_ = asks;
  if (asks) last_asked_ = now;
  probing_ = true;
  last_probe_ = now;
  return true;
}

bool NodeLife::TakeComparison(Instant now) {
  if ((probing_ && now - last_probe_ < kProbeLost) || !MayAsk(now)) return false;
  probing_ = asks_ = true;
  last_probe_ = last_asked_ = now;
  return true;
}

void NodeLife::OnProbe(ProbeEnd end, const Rules& rules, Instant now) {
  probing_ = false;
  is_proven_ = true;
  if (end == ProbeEnd::kTls || end == ProbeEnd::kNoAnswer) ejection_.OnCheck(end == ProbeEnd::kTls, rules.eject, now);
  if (end != ProbeEnd::kNoConnect) {
    counters_->connect_failures.store(0, std::memory_order_relaxed);
    failures_seen_ = 0;
    connects_ = true;
  }
  if (end == ProbeEnd::kNoAnswer && asks_) return;
  if (end == ProbeEnd::kConnected || end == ProbeEnd::kTls) {
    check_failures_ = 0;
    SetReachable(true, now);
    if (NeedsProof(rules, now)) {
      has_agent_ = false;
      said_dying_ = false;
      SetAgent(AgentVerdict::kNone, now);
    }
    next_probe_ = now + WithJitter(rules.health_interval.value_or(kMostBackoff));
    return;
  }
  if (end == ProbeEnd::kNoConnect) {
    counters_->connect_failures.fetch_add(1, std::memory_order_relaxed);
  } else if (check_failures_ < rules.fall) {
    ++check_failures_;
  }
  const bool was_down = !verdicts_.reachable || NeedsProof(rules, now);
  JudgeReachability(rules, now);
  if (was_down) {
    backoff_ = std::min(2 * backoff_, kMostBackoff);
    next_probe_ = now + WithJitter(backoff_);
  } else if (verdicts_.reachable) {
    // A node that may be on its way down is looked at more closely.
    next_probe_ = now + WithJitter(std::min(rules.health_interval.value_or(kFirstBackoff), kFirstBackoff));
  }
}

void NodeLife::OnNewAddress(Instant now) {
  counters_->connect_failures.store(0, std::memory_order_relaxed);
  failures_seen_ = check_failures_ = 0;
  connects_ = true;
  is_proven_ = has_agent_;
  total_elsewhere_ = counters_->total.load(std::memory_order_relaxed);
  ejection_.Forget();
  SetEjected(false, now);
  probing_ = false;  // one that is under way went to the old address
  SetReachable(true, now);
  next_probe_ = std::min(next_probe_, now);
}

Instant NodeLife::NextDeadline(const Rules& rules, Instant last_tick) const {
  Instant next = Instant::max();
  if (has_agent_ && verdicts_.agent != AgentVerdict::kDead) {
    next = last_heard_ + rules.dead_after + Duration(1);
    // What is silent already waits for the end of its connections, which no clock tells.
    if (next <= last_tick) next = last_tick + kLook;
  } else if (has_agent_ && dead_since_ + kForgetDeadAfter > last_tick) {
    next = dead_since_ + kForgetDeadAfter;
  }
  // Behind its time it waits for a check's verdict; Ticks look after that.
  if (ejection_.is_out() && ejection_.until() > last_tick) next = std::min(next, ejection_.until());
  const Instant probe = probing_ ? std::max(next_probe_, last_probe_ + kProbeLost) : next_probe_;
  if (WantsProbe(rules, std::max(probe, last_tick))) next = std::min(next, probe);
  return next;
}

void NodeLife::check_invariants() const {
  HUD_CHECK(has_agent_ == (verdicts_.agent != AgentVerdict::kNone));
  HUD_CHECK(!said_dying_ || verdicts_.agent == AgentVerdict::kDying || verdicts_.agent == AgentVerdict::kDead);
  HUD_CHECK(verdicts_.agent != AgentVerdict::kDying || said_dying_);
  HUD_CHECK(backoff_ >= kFirstBackoff && backoff_ <= kMostBackoff);
  HUD_CHECK(verdicts_.ejected == ejection_.is_out());
  ejection_.check_invariants();
  HUD_CHECK(!probing_ || last_probe_ != Instant::min());
}

}  // namespace hud
