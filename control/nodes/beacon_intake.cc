#include "control/nodes/beacon_intake.h"

#include <algorithm>

namespace hud {
namespace {

constexpr Duration kSameRefusalAgain = std::chrono::seconds(30);

}  // namespace

BeaconIntake::BeaconIntake(std::vector<std::unique_ptr<BeaconSocket>> sockets, BeaconReceiver* receiver, Cluster* cluster,
                           AffinityMap* affinity, const Log* log)
    : sockets_(std::move(sockets)),
      progress_(sockets_.size()),
      receiver_(receiver),
      cluster_(cluster),
      affinity_(affinity),
      log_(log) {}

BeaconIntake::Turn BeaconIntake::Read(Instant now) {
  Turn turn;
  for (size_t i = 0; i < sockets_.size(); ++i) ReadSocket(i, now, &turn);
  for (const std::string& alarm : receiver_->TakeAlarms()) log_->Warning(alarm);
  return turn;
}

void BeaconIntake::ReadSocket(size_t i, Instant now, Turn* turn) {
  BeaconSocket& socket = *sockets_[i];
  BeaconEvent event;
  BeaconAnswer answer;
  for (size_t batch = 0; batch < kBatchesATurn; ++batch) {
    const size_t read = socket.Receive([&](const BeaconSocket::Datagram& datagram) {
      const bool applies = receiver_->Handle(datagram.bytes, datagram.from, now, &event, &answer);
      if (applies) Apply(event, now, turn);
      if (!answer.datagram.empty()) socket.Answer(datagram, answer.datagram);
    });
    turn->datagrams += read;
    NoteProgress(progress_[i], read, now);
    if (read < BeaconSocket::kBatch) return;
    // A mark is set once, and counted down by what is read from then on.
    if (progress_[i].mark_left == 0) {
      progress_[i].mark = now;
      progress_[i].mark_left = socket.most_queued();
    }
  }
  turn->more = true;
}

void BeaconIntake::NoteProgress(Progress& progress, size_t read, Instant now) {
  if (read < BeaconSocket::kBatch) {
    progress.drained_at = now;
    progress.mark_left = 0;
  } else if (progress.mark_left > 0) {
    progress.mark_left -= std::min(progress.mark_left, read);
    if (progress.mark_left == 0) progress.drained_at = progress.mark;
  }
}

Instant BeaconIntake::drained_at() const {
  Instant oldest = Instant::max();
  for (const Progress& progress : progress_) oldest = std::min(oldest, progress.drained_at);
  return oldest;
}

bool BeaconIntake::TookDrops() {
  return dropped() != std::exchange(dropped_seen_, dropped());
}

uint64_t BeaconIntake::dropped() const {
  uint64_t sum = 0;
  for (const auto& socket : sockets_) sum += socket->dropped();
  return sum;
}

uint64_t BeaconIntake::answers_failed() const {
  uint64_t sum = 0;
  for (const auto& socket : sockets_) sum += socket->answers_failed();
  return sum;
}

void BeaconIntake::Apply(const BeaconEvent& event, Instant now, Turn* turn) {
  if (event.kind == BeaconEvent::Kind::kTokens) return ApplyTokens(event, now);
  if (absl::Status status = cluster_->OnBeacon(event, now); !status.ok()) return Refuse(event, status, now);
  if (event.kind == BeaconEvent::Kind::kDying || !event.report.health.ready) turn->bad_news = true;
  const auto refusal = refusals_.find(event.node);
  if (refusal == refusals_.end()) return;
  if (refusal->second.tokens_lost) receiver_->ForgetTokens(event.node);
  refusals_.erase(refusal);
}

void BeaconIntake::ApplyTokens(const BeaconEvent& event, Instant now) {
  const NodeRef owner = cluster_->Find(event.node);
  if (!owner) {
    tokens_unowned_ += event.tokens.size();
    refusals_[event.node].tokens_lost = true;
    return;
  }
  for (const TokenItem& token : event.tokens) {
    if (token.withdraw) {
      affinity_->Withdraw(token.span(), owner);
    } else {
      const Duration ttl = std::min<Duration>(std::chrono::seconds(token.ttl_seconds), token_ttl_);
      affinity_->Insert(token.span(), owner, now + ttl, now);
    }
  }
}

void BeaconIntake::ForgetTokens(const std::string& node) { receiver_->ForgetTokens(node); }

void BeaconIntake::Refuse(const BeaconEvent& event, const absl::Status& why, Instant now) {
  ++refused_;
  Refusal& refusal = refusals_[event.node];
  if (refusal.logged != Instant::min() && now - refusal.logged < kSameRefusalAgain) return;
  refusal.logged = now;
  log_->Warning("a beacon changed nothing", {{"node", std::string_view(event.node)},
                                             {"why", std::string_view(why.message().data(), why.message().size())}});
}

}  // namespace hud
