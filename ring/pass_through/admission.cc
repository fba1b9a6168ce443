#include "ring/pass_through/admission.h"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "core/admission/hello_room.h"

namespace hud {
namespace {

// Where nobody holds more than the newcomer's own source, only what has been quiet for this long makes room: to cut off a
// connection at work for another one like it would help nobody.
constexpr Duration kQuiet = std::chrono::seconds(1);
// An unfinished hello much sooner: who speaks TLS sends all of it at once, and has been heard by then.
constexpr Duration kHelloTime = std::chrono::milliseconds(100);
// Sources here that are compared by what they hold over all workers.
constexpr size_t kCompared = 8;
constexpr size_t kCountedPerTurn = 1024;  // twice the completions of a turn: all are counted before the limit is reached

}  // namespace

// From now on sources are counted: newcomers at once, those who are here already in the next turns.
void Admission::Watch() {
  if (watching_ || !places_.watched()) return;
  watching_ = true;
  next_to_count_ = 0;
}

void Admission::CountSources() {
  if (!HasMoreNow()) return;
  const size_t until = std::min(connections_.slots(), next_to_count_ + kCountedPerTurn);
  for (; next_to_count_ < until; ++next_to_count_) {
    Connection& c = connections_.At(static_cast<uint32_t>(next_to_count_));
    if (c.state == ConnectionState::kFree || c.state == ConnectionState::kTerminating || sources_.Contains(c.slot)) continue;
    try {
      Enter(c);
      HelloIsDone(c);
    } catch (const std::bad_alloc&) {
      owner_.EndAtLimit(c, CloseReason::kLocalError);
    }
  }
}

// Returns what its source then holds.
uint32_t Admission::Enter(Connection& c) {
  const SourceKey source = SourceOf(c);
  const uint64_t hash = places_.HashOf(source);
  const uint32_t held = places_.sources().Enter(hash);
  try {
    sources_.Enter(c.slot, source, hash);
  } catch (const std::bad_alloc&) {
    places_.sources().Leave(hash);
    throw;
  }
  return held;
}

void Admission::Leave(const Connection& c) {
  if (!watching_ || !sources_.Contains(c.slot)) return;
  places_.sources().Leave(sources_.HashOf(c.slot));
  sources_.Leave(c.slot);
}

Admission::Verdict Admission::Welcome(Connection& c, size_t used, bool speaks_for_others) {
  if (!watching_) {
    if (!places_.Watched(used, worker_)) return Verdict::kWelcome;
    Watch();
  }
  const uint32_t held = Enter(c);
  if (!speaks_for_others && WithinSourceLimit(c, held) != Verdict::kWelcome) return Verdict::kSourceLimit;
  const PlaceLimits& limits = places_.limits();
  if (used <= limits.connections || MakeRoom(c) || used <= limits.connections + places_.spare()) return Verdict::kWelcome;
  counters_.over_limit.Add();
  return Verdict::kOverLimit;
}

Admission::Verdict Admission::WithinSourceLimit(Connection& c, uint32_t held) {
  const size_t most = places_.limits().per_source;
  if (most == 0 || held <= most) return Verdict::kWelcome;
  places_.NoteMadeRoom(sources_.SourceOf(sources_.HashOf(c.slot)));
  return Verdict::kSourceLimit;
}

Admission::Verdict Admission::SourceIsKnown(Connection& c) {
  if (!watching_) return Verdict::kWelcome;
  Leave(c);
  return WithinSourceLimit(c, Enter(c));
}

void Admission::HelloIsDone(const Connection& c) {
  if (watching_ && c.state != ConnectionState::kHello) sources_.HelloDone(c.slot);
}

bool Admission::HasHelloRoom(Connection& c, size_t bytes) {
  const size_t held = held_hello_bytes_ + others_hello_bytes_ + bytes;
  return held <= places_.limits().hello_bytes || MakeHelloRoom(c, bytes);
}

void Admission::OnWake() {
  Watch();
  MakeRoomForOthers();
}

void Admission::EndTurn() {
  CountSources();
  counters_.hello_bytes_held.Set(static_cast<int64_t>(held_hello_bytes_));
  if (held_hello_bytes_ != std::exchange(published_hello_bytes_, held_hello_bytes_)) places_.PublishHelloBytes(worker_, held_hello_bytes_);
  // Asking takes locks: not in turns in which nobody came or went.
  if (watching_ && sources_.changes() != std::exchange(published_changes_, sources_.changes())) {
    places_.PublishLargest(worker_, LargestHere().count);
  }
}

SourceTable::Holder Admission::LargestHere() const {
  SourceTable::Holder most;
  for (const SourceTable::Holder& holder : sources_.Largest(kCompared)) {
    if (const uint32_t count = places_.sources().CountOf(holder.hash); count > most.count) most = {holder.hash, count};
  }
  return most;
}

bool Admission::MakeRoom(const Connection& newcomer) {
  const uint64_t own = sources_.HashOf(newcomer.slot);
  const uint32_t own_count = places_.sources().CountOf(own);
  const SourceTable::Holder here = LargestHere();
  if (const unsigned worker = places_.WhoHoldsMore(worker_, std::max(own_count, here.count)); worker != Places::kNobody) {
    places_.AskForPlace(worker);
    return true;
  }
  if (here.count > own_count && EvictOf(here.hash, newcomer.slot, {})) return true;
  const SourceTable::Quiet quiet{loop_.now() - kHelloTime, loop_.now() - kQuiet};
  return EvictOf(own, newcomer.slot, quiet) ||
         EvictAnywhere(newcomer.slot, quiet, [&](uint64_t source) { return places_.sources().CountOf(source) >= own_count; });
}

Instant Admission::QuietSince(uint32_t slot) {
  const Connection& c = connections_.At(slot);
  return c.state == ConnectionState::kHello ? c.accepted_at : c.last_activity;
}

bool Admission::EvictOf(uint64_t source, uint32_t except, const SourceTable::Quiet& quiet) {
  return EvictSlot(sources_.FirstToGo(source, except, quiet, [this](uint32_t slot) { return QuietSince(slot); }));
}

template <typename MayGo>
bool Admission::EvictAnywhere(uint32_t except, const SourceTable::Quiet& quiet, MayGo&& may_go) {
  return EvictSlot(sources_.FirstToGoOfAll(except, quiet, [this](uint32_t slot) { return QuietSince(slot); }, may_go));
}

bool Admission::EvictSlot(std::optional<uint32_t> slot) {
  if (!slot) return false;
  counters_.evicted_for_places.Add();
  places_.NoteMadeRoom(sources_.SourceOf(sources_.HashOf(*slot)));
  owner_.EndAtLimit(connections_.At(*slot), CloseReason::kMadeRoom);
  return true;
}

// Other workers had newcomers, and what holds most is here. Where no memory is left to look for it, nobody goes: the workers
// ask again with their next newcomer.
void Admission::MakeRoomForOthers() {
  try {
    for (uint32_t n = places_.TakePlacesWanted(worker_); n > 0 && places_.used() > places_.limits().connections; --n) {
      // By now nobody here may hold more than others; but somebody was let in for it.
      const SourceTable::Holder here = LargestHere();
      if (here.count < 2 || !EvictOf(here.hash, kNoSlot, {})) EvictAnywhere(kNoSlot, {}, [](uint64_t) { return true; });
    }
    if (places_.TakeHelloRoomWanted(worker_)) {
      const size_t held = held_hello_bytes_ + places_.HelloBytesOfOthers(worker_);
      if (held > places_.limits().hello_bytes) (void)EvictHellos(nullptr, held - places_.limits().hello_bytes);
    }
  } catch (const std::bad_alloc&) {
    return;
  }
}

// Memory for `bytes` more of this client's hello. A worker within an even part of the whole is never refused, but asks the
// one that holds most to let go: so the bound can be passed for a moment, by less than itself.
bool Admission::MakeHelloRoom(Connection& c, size_t bytes) {
  const PlaceLimits& limits = places_.limits();
  if (held_hello_bytes_ + bytes > limits.hello_bytes / limits.workers) return EvictHellos(&c, bytes);
  places_.AskForHelloRoom(worker_);
  return true;
}

// A share of the whole at once, for it takes time to look at all.
bool Admission::EvictHellos(Connection* newcomer, size_t wanted) {
  constexpr size_t kAtOnce = 64;
  std::vector<HeldHello> held;
  connections_.ForEach([&](Connection& c) {
    if (c.state != ConnectionState::kHello || &c == newcomer || c.context->bytes.size == 0) return;
    held.push_back({places_.HashOf(SourceOf(c)), c.context->bytes.size, c.accepted_at, c.slot});
  });
  HelloNewcomer own;
  if (newcomer) own = {places_.HashOf(SourceOf(*newcomer)), newcomer->context->bytes.size};
  size_t freed = 0;
  for (uint32_t slot : HellosToEnd(std::move(held), own, std::max(wanted, places_.limits().hello_bytes / kAtOnce))) {
    Connection& c = connections_.At(slot);
    freed += c.context->bytes.size;
    counters_.evicted_for_hellos.Add();
    places_.NoteMadeRoom(SourceOf(c));
    owner_.EndAtLimit(c, CloseReason::kMadeRoom);
  }
  return freed >= wanted;
}

}  // namespace hud
