#include "tests/simulation/peers.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace hud::simulation {
namespace {

using namespace std::chrono_literals;

// Random bytes whose number is a prime: no size of a buffer is a multiple of their period.
constexpr size_t kPeriod = 65521;
constexpr size_t kMost = 65536;  // that are asked for at once
constexpr Duration kLongestPause = 10s;

const std::vector<uint8_t>& Noise() {
  static const std::vector<uint8_t> noise = [] {
    Random random(7);
    std::vector<uint8_t> bytes(kPeriod + kMost);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = i < kPeriod ? static_cast<uint8_t>(random.Next()) : bytes[i - kPeriod];
    return bytes;
  }();
  return noise;
}

}  // namespace

std::vector<uint8_t> Content::At(uint64_t offset, size_t size) const {
  std::vector<uint8_t> bytes;
  if (offset < head_.size()) {
    const size_t n = std::min<size_t>(size, head_.size() - offset);
    bytes.assign(head_.begin() + static_cast<std::ptrdiff_t>(offset), head_.begin() + static_cast<std::ptrdiff_t>(offset + n));
  }
  const size_t rest = std::min(size - bytes.size(), kMost);
  const uint8_t* noise = Noise().data() + (key_ + offset + bytes.size()) % kPeriod;
  bytes.insert(bytes.end(), noise, noise + rest);
  return bytes;
}

bool Content::IsAt(uint64_t offset, Bytes bytes) const {
  while (!bytes.empty()) {
    const std::vector<uint8_t> expected = At(offset, std::min(bytes.size(), kMost));
    if (!std::equal(expected.begin(), expected.end(), bytes.begin())) return false;
    bytes = bytes.subspan(expected.size());
    offset += expected.size();
  }
  return true;
}

Plan RandomPlan(Random& random, uint64_t most_bytes, double impolite) {
  Plan plan;
  plan.to_send = random.Chance(0.1) ? 0 : random.Magnitude(1, most_bytes);
  constexpr Ending kPolite[] = {Ending::kEndsWhenSent, Ending::kEndsWhenSent, Ending::kEndsAfterOther, Ending::kStays};
  constexpr Ending kImpolite[] = {Ending::kClosesWhenSent, Ending::kCloses, Ending::kResets, Ending::kResets, Ending::kVanishes};
  plan.ending = random.Chance(impolite) ? kImpolite[random.Below(std::size(kImpolite))] : kPolite[random.Below(std::size(kPolite))];
  if (plan.ending == Ending::kVanishes && random.Chance(0.7)) plan.ending = Ending::kResets;
  plan.moment = random.Chance(0.5) ? random.Below(plan.to_send + 1) : random.Magnitude(1, 2 * most_bytes);
  plan.reads = random.Chance(0.8);
  plan.read_chance = random.Chance(0.5) ? 1 : 0.1 + 0.8 * random.Unit();
  plan.send_chance = random.Chance(0.5) ? 1 : 0.1 + 0.8 * random.Unit();
  plan.most_at_once = random.Magnitude(1, kMost);
  plan.pace = random.Time(20us, 20ms);
  plan.stall_chance = random.Chance(0.3) ? 0.05 : 0;
  // However slow, in at most so many acts.
  plan.most_at_once = std::max<size_t>(plan.most_at_once, plan.to_send / 200);
  return plan;
}

Peer::Peer(World& world, std::string name, std::shared_ptr<Endpoint> endpoint, Content content, const Plan& plan)
    : world_(world), name_(std::move(name)), endpoint_(std::move(endpoint)), proxys_end_(endpoint_->peer), content_(std::move(content)), plan_(plan) {}

void Peer::Start() {
  endpoint_->means_to_reset = plan_.ending == Ending::kResets;
  endpoint_->on_wake = [this](short) { OnWake(); };
  pause_ = plan_.pace;
  ActLater(world_.random.Time(1us, plan_.pace));
}

void Peer::OnWake() {
  if (gone_ || pause_ <= plan_.pace || world_.events.now() < stalled_until_) return;
  pause_ = plan_.pace;
  ActLater(world_.random.Time(1us, plan_.pace));
}

void Peer::BeCalm() {
  if (gone_ || std::exchange(calm_, true)) return;
  plan_.reads = true;
  plan_.read_chance = plan_.send_chance = 1;
  plan_.most_at_once = kMost;
  plan_.pace = pause_ = 1ms;
  stalled_until_ = {};
  plan_.ending = Ending::kEndsWhenSent;
  endpoint_->means_to_reset = false;
  ActLater(1us);
}

void Peer::ActLater(Duration delay) {
  world_.events.After(delay, [this, number = ++acts_] {
    if (number == acts_ && !gone_) Act();
  });
}

void Peer::Act() {
  EndIfDue();
  if (gone_) return;
  const uint64_t before = endpoint_->sent + read_;
  if (world_.random.Chance(plan_.send_chance)) SendSome();
  if (plan_.reads && world_.random.Chance(plan_.read_chance)) ReadSome();
  EndIfDue();
  if (gone_) return;
  pause_ = endpoint_->sent + read_ != before ? plan_.pace : std::min<Duration>(2 * pause_, kLongestPause);
  Duration pause = world_.random.Time(1us, pause_);
  if (!calm_ && world_.random.Chance(plan_.stall_chance)) {
    pause = world_.random.Time(50ms, 60s);
    stalled_until_ = world_.events.now() + pause;
  }
  ActLater(pause);
}

void Peer::SendSome() {
  if (ended_ || send_failed_ || endpoint_->sent >= plan_.to_send || endpoint_->state != Endpoint::State::kConnected) return;
  const size_t n = std::min<uint64_t>(plan_.to_send - endpoint_->sent, world_.random.Between(1, plan_.most_at_once));
  const ssize_t sent = endpoint_->Send(content_.At(endpoint_->sent, n));
  if (sent < 0 && sent != -EAGAIN) send_failed_ = true;
}

void Peer::ReadSome() {
  if (end_ != End::kNone || endpoint_->state == Endpoint::State::kFresh) return;
  std::array<uint8_t, kMost> into;
  const ssize_t n = endpoint_->Take(into.data(), std::max<size_t>(1, std::min(plan_.most_at_once, into.size())));
  if (n == -EAGAIN) return;
  if (n > 0) {
    read_ += static_cast<uint64_t>(n);
    return OnBytes({into.data(), static_cast<size_t>(n)});
  }
  // A send may have been told of the reset: the socket knows better than its 0.
  end_ = endpoint_->fin_came && !(endpoint_->is_unix && endpoint_->reset_came) ? End::kFin : End::kReset;
  HUD_TRACE(world_, name_, " reads ", end_ == End::kFin ? "the end" : "a reset", " behind ", received());
}

void Peer::EndIfDue() {
  if (endpoint_->IsOrphan()) {  // its reset has struck
    patient_ = false;
    return Go();
  }
  const bool all_sent = send_failed_ || endpoint_->sent >= plan_.to_send;
  const bool other_ended = end_ != End::kNone;
  if (endpoint_->state == Endpoint::State::kConnecting && !endpoint_->dead && !calm_) return;
  switch (plan_.ending) {
    case Ending::kEndsWhenSent:
      if (!all_sent) break;
      if (!std::exchange(ended_, true)) endpoint_->EndStream();
      break;
    case Ending::kEndsAfterOther:
      if (other_ended && !std::exchange(ended_, true)) endpoint_->EndStream();
      break;
    case Ending::kClosesWhenSent:
      if (!all_sent) break;
      patient_ = other_ended;
      return Go();
    case Ending::kCloses:
      if (!ItsMoment()) break;
      patient_ = other_ended;
      return Go();
    case Ending::kResets:
      if (!ItsMoment()) break;
      patient_ = false;
      endpoint_->ResetOnClose();
      return Go();
    case Ending::kVanishes:
      if (!ItsMoment()) break;
      patient_ = false;
      endpoint_->Vanish();
      gone_ = true;
      return;
    case Ending::kIsCutOff:
      if (!ItsMoment()) break;
      return BeCutOff();
    case Ending::kStays: break;
  }
  const bool ways_are_shut = ended_ || send_failed_ || end_ == End::kReset;
  if (other_ended && ways_are_shut) Go();
}

void Peer::BeCutOff() {
  patient_ = false;
  gone_ = true;
  if (world_.faults.Happens(Fault::kErrorBehindFin)) endpoint_->EndStream();
  constexpr int kErrors[] = {ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ECONNREFUSED, ENOPROTOOPT};
  const int error = kErrors[world_.random.Below(std::size(kErrors))];
  world_.events.After(world_.random.Time(1us, 20ms), [end = endpoint_, error] { end->CutOff(error); });
}

void Peer::Go() {
  gone_ = true;
  endpoint_->on_wake = nullptr;
  endpoint_->LastClose();
}

std::string Peer::Describe() const {
  const auto kind = [](End end) { return end == End::kNone ? "no end" : end == End::kFin ? "FIN" : "reset"; };
  return absl::StrCat(name_, ": sent ", endpoint_->sent, " of ", plan_.to_send, ended_ ? " and FIN" : "", send_failed_ ? " (refused)" : "",
                      ", received ", received(), " and ", kind(end_), patient_ ? ", patient" : ", impatient", gone_ ? ", gone" : "");
}

}  // namespace hud::simulation
