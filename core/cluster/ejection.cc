#include "core/cluster/ejection.h"

#include <algorithm>

#include "core/base/check.h"

namespace hud {

bool Ejection::IsSuspected(const Rules& rules) const {
  return !is_out_ && rules.after > 0 && counters_->unanswered.load(std::memory_order_relaxed) >= rules.after;
}

bool Ejection::WantsCheck(const Rules& rules, Instant now) const {
  return is_out_ ? now >= until_ && !may_return_ : IsSuspected(rules) && now >= evidence_until_;
}

void Ejection::OnCheck(bool answered, const Rules& rules, Instant now) {
  if (is_out_) {
    if (now < until_) return;
    // A server may have something against our checks alone: in the end clients say how it is.
    may_return_ = answered || last_time_ >= std::max(kMostTime, rules.time);
    if (!may_return_) Begin(rules, now);
    return;
  }
  evidence_until_ = answered ? Instant{} : now + kCheckCounts;
  if (answered) counters_->unanswered.store(0, std::memory_order_relaxed);
}

void Ejection::Begin(const Rules& rules, Instant now) {
  const bool relapse = last_time_ > Duration(0) && (is_out_ || now - until_ < std::max(kSteadyAfter, last_time_));
  last_time_ = relapse ? std::min(2 * last_time_, std::max(kMostTime, rules.time)) : rules.time;
  last_time_ = std::max(last_time_, rules.time);
  is_out_ = true;
  may_return_ = false;
  evidence_until_ = {};
  until_ = now + last_time_;
}

bool Ejection::Tick(const Rules& rules, Instant now) {
  if (!is_out_) return false;
  // Switched off by a reload: it ends at once.
  const bool is_over = rules.after == 0 || may_return_ || now >= until_ + kAwaitCheck;
  if (!is_over) return false;
  is_out_ = may_return_ = false;
  until_ = now;
  counters_->unanswered.store(0, std::memory_order_relaxed);
  return true;
}

void Ejection::Forget() {
  is_out_ = may_return_ = false;
  last_time_ = Duration(0);
  evidence_until_ = {};
  counters_->unanswered.store(0, std::memory_order_relaxed);
}

void Ejection::check_invariants() const {
  HUD_CHECK(!is_out_ || last_time_ > Duration(0));
  HUD_CHECK(is_out_ || !may_return_);
}

}  // namespace hud
