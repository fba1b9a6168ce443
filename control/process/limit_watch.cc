#include "control/process/limit_watch.h"

#include <algorithm>

namespace hud {
namespace {

struct Count {
  std::string_view name;
  std::function<const Counter&(const WorkerCounters&)> read;
};
struct Kind {
  std::string_view message;
  std::vector<Count> counts;
  bool names_source = true;
};

const Counter& Closes(const WorkerCounters& w, CloseReason reason) { return w.closes[static_cast<size_t>(reason)]; }

const std::vector<Kind>& Kinds() {
  static const std::vector<Kind> kinds = {
      {"all places are in use (max_connections); the source that holds most makes room",
       {{"times", [](const WorkerCounters& w) -> const Counter& { return w.limit_reached; }},
        {"made_room", [](const WorkerCounters& w) -> const Counter& { return w.evicted_for_places; }},
        {"refused", [](const WorkerCounters& w) -> const Counter& { return w.over_limit; }}}},
      {"the memory for hellos is in use (relay.hello_budget); the source that holds most makes room",
       {{"made_room", [](const WorkerCounters& w) -> const Counter& { return w.evicted_for_hellos; }},
        {"refused", [](const WorkerCounters& w) -> const Counter& { return w.hello_budget_refused; }}}},
      {"a source has all the connections it may have (max_connections_per_source); its newcomers are refused",
       {{"refused", [](const WorkerCounters& w) -> const Counter& { return Closes(w, CloseReason::kSourceLimit); }}}},
      {"the same hello is here more than 64 times at once: a node's address leads back to this proxy, over NAT or another proxy, or "
       "somebody repeats it; what is more is closed",
       {{"closed", [](const WorkerCounters& w) -> const Counter& { return Closes(w, CloseReason::kLoop); }}},
       false},
      {"accepting pauses for want of descriptors or memory; clients wait (LimitNOFILE=, ulimit -n)",
       {{"times", [](const WorkerCounters& w) -> const Counter& { return w.accept_backoffs; }}},
       false},
  };
  return kinds;
}

}  // namespace

int64_t LimitWatch::Sum(const std::function<const Counter&(const WorkerCounters&)>& counter) const {
  int64_t sum = 0;
  for (const WorkerCounters* worker : workers_) sum += counter(*worker).Get();
  return sum;
}

std::vector<LimitWatch::Warning> LimitWatch::Look(Instant now) {
  std::vector<Warning> warnings;
  for (size_t k = 0; k < Kinds().size(); ++k) {
    if (now < next_[k]) continue;
    const Kind& kind = Kinds()[k];
    std::vector<int64_t>& said = said_[k];
    said.resize(kind.counts.size());
    Warning warning{kind.message, {}, kind.names_source};
    bool anything = false;
    for (size_t i = 0; i < kind.counts.size(); ++i) {
      const int64_t sum = Sum(kind.counts[i].read);
      warning.counts.emplace_back(kind.counts[i].name, sum - said[i]);
      anything |= sum != said[i];
      said[i] = sum;
    }
    if (!anything) continue;
    next_[k] = now + kEvery;
    warnings.push_back(std::move(warning));
  }
  return warnings;
}

}  // namespace hud
