#include "tests/simulation/simulated_sockets.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"

namespace hud::simulation {
namespace {

using namespace std::chrono_literals;

constexpr size_t kTraceLines = 3000;
constexpr Duration kFastest = 1us, kSlowest = 2ms;  // of a segment's way
constexpr Duration kSynRetry = 1s;
constexpr Duration kComesBackWithin = 150ms;
constexpr int kSynRetries = 120;  // about as long as Linux tries

}  // namespace

void Events::At(Instant when, std::function<void()> what) { queue_.push({std::max(when, now_), numbers_++, std::move(what)}); }

void Events::RunUntil(Instant when) {
  while (!queue_.empty() && queue_.top().when <= when) {
    now_ = std::max(now_, queue_.top().when);
    const std::function<void()> what = std::move(const_cast<Event&>(queue_.top()).what);
    queue_.pop();
    ++ran_;
    what();
  }
  now_ = std::max(now_, when);
}

void World::Violation(std::string what) {
  Trace("VIOLATION: " + what);
  violations.push_back(std::move(what));
}

void World::Trace(const std::string& what) {
  if (!tracing) return;
  const auto since = events.now() - Instant(std::chrono::hours(1000));
  trace.push_back(absl::StrCat(since / 1us, " us  ", what));
  if (at_once) std::fprintf(stderr, "%s\n", trace.back().c_str());
  if (trace.size() > kTraceLines) trace.pop_front();
}

bool World::CameInAnAbsence(Instant when) const {
  return when > away_from && when <= away_until && events.now() < away_until + kComesBackWithin;
}

void ByteQueue::Pop(size_t n) {
  taken_ += n;
  if (taken_ == bytes_.size()) return Clear();
  if (taken_ > 65536 && taken_ > bytes_.size() / 2) {
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(taken_));
    taken_ = 0;
  }
}

Endpoint::Endpoint(World& its_world, std::string its_name, bool unix_socket)
    : File(std::move(its_name)),
      world(its_world),
      is_unix(unix_socket),
      send_capacity(world.random.Magnitude(4096, 512 * 1024)),
      receive_capacity(world.random.Magnitude(4096, 512 * 1024)),
      last_heard(world.events.now()) {}

void Endpoint::Join(const std::shared_ptr<Endpoint>& a, const std::shared_ptr<Endpoint>& b) {
  a->peer = b;
  b->peer = a;
  a->world.joined.push_back(a);
}

World::~World() {
  for (const std::weak_ptr<Endpoint>& weak : joined) {
    const std::shared_ptr<Endpoint> end = weak.lock();
    if (end && end->peer) std::exchange(end->peer, nullptr)->peer = nullptr;
  }
}

void Endpoint::Connect(const std::shared_ptr<Endpoint>& a, const std::shared_ptr<Endpoint>& b) {
  Join(a, b);
  a->state = b->state = State::kConnected;
  ++a->world.progress;
  a->last_heard = b->last_heard = a->connected_at = b->connected_at = a->world.events.now();
  a->Wake(0);
  b->Wake(0);
}

// tcp_sendmsg() and sk_stream_error(), unix_stream_sendmsg().
ssize_t Endpoint::SendError() {
  if (is_unix) return send_shut || (peer && (peer->receive_shut || peer->orphan_)) ? -EPIPE : 0;
  if (error != 0) return -std::exchange(error, 0);
  return send_shut || dead ? -EPIPE : 0;
}

ssize_t Endpoint::Send(Bytes bytes) {
  if (state != State::kConnected) return state == State::kConnecting ? -EAGAIN : is_unix ? -ENOTCONN : -EPIPE;
  if (const ssize_t failure = SendError(); failure != 0) return failure;
  if (world.events.now() < refuses_until) {
    no_space_ = true;
    return -EAGAIN;
  }
  if (!world.faults.calm() && world.faults.Happens(Fault::kRefusingSocket)) {
    refuses_until = world.events.now() + world.random.Time(10us, 200ms);
    no_space_ = true;
    return -EAGAIN;
  }
  size_t n = std::min(bytes.size(), room());
  if (n == 0 && !bytes.empty()) {
    no_space_ = true;
    return -EAGAIN;
  }
  if (n > 1 && world.faults.Happens(Fault::kShortSend)) n = world.random.Between(1, n - 1);
  if (n < bytes.size()) no_space_ = true;
  sent += n;
  world.progress += n > 0;
  if (is_unix) {
    peer->Arrive(bytes.first(n));
  } else {
    sending_.Push(bytes.first(n));
    ScheduleDelivery();
  }
  return static_cast<ssize_t>(n);
}

// tcp_recvmsg_locked(): bytes first, then a FIN, then an error, then what else says that there is no more.
ssize_t Endpoint::Take(uint8_t* into, size_t most) {
  if (!received.empty()) {
    size_t n = std::min(most, received.size());
    if (n > 1 && world.faults.Happens(Fault::kShortReceive)) n = world.random.Between(1, n - 1);
    const Bytes bytes = received.front(n);
    std::copy(bytes.begin(), bytes.end(), into);
    received.Pop(n);
    ++world.progress;
    if (peer) {  // there is room for what was sent
      if (is_unix) {
        peer->WakeIfThereIsRoom();  // unix_write_space()
      } else {
        peer->ScheduleDelivery();
      }
    }
    return static_cast<ssize_t>(n);
  }
  if (fin_came && !is_unix) return 0;
  if (error != 0) return -std::exchange(error, 0);
  if (receive_shut) return 0;
  if (dead) return -ENOTCONN;
  return state == State::kFresh ? -ENOTCONN : -EAGAIN;
}

void Endpoint::EndStream() {
  if (state != State::kConnected || dead || send_shut) return;
  send_shut = true;
  ++world.progress;
  HUD_TRACE(world, name, " sends FIN behind ", sent);
  if (is_unix) {
    if (peer->received.empty()) peer->unread_since = world.events.now();
    peer->receive_shut = peer->fin_came = true;
    peer->Wake(0);
  } else {
    fin_queued_ = true;
    ScheduleDelivery();
  }
  Wake(0);
}

// tcp_poll(), unix_poll(): writable is a third of the buffer, and what polls for it is woken then.
short Endpoint::Events() {
  int mask = 0;
  if ((send_shut && receive_shut) || dead || state == State::kFresh) mask |= POLLHUP;
  if (receive_shut) mask |= POLLIN | POLLRDHUP;
  if (!received.empty()) mask |= POLLIN;
  if (error != 0) mask |= POLLERR;
  if (state == State::kConnected) {
    if (send_shut || IsWritable()) {
      mask |= POLLOUT;
    } else {
      no_space_ = true;
    }
  }
  return static_cast<short>(mask);
}

uint32_t Endpoint::Unacknowledged() const {
  if (is_unix) return static_cast<uint32_t>(used());
  return static_cast<uint32_t>(sending_.size() + (fin_queued_ && !fin_delivered_ && !dead));
}

// ---- On the way

void Endpoint::ScheduleDelivery() {
  if (delivery_scheduled_ || dead || vanished || !peer || peer->vanished) return;
  if (sending_.empty() ? !fin_queued_ || fin_delivered_ : peer->received.size() >= peer->receive_capacity && !peer->orphan_) return;
  delivery_scheduled_ = true;
  const Duration delay = world.random.Chance(0.02) ? world.random.Time(kSlowest, 50ms) : world.random.Time(kFastest, kSlowest);
  world.events.After(delay, [self = shared_from_this()] {
    self->delivery_scheduled_ = false;
    self->Deliver();
  });
}

void Endpoint::Deliver() {
  if (dead || vanished || peer->vanished) return;
  if (peer->orphan_ && !sending_.empty()) {  // bytes for nobody
    peer->LoseInFlight();
    return ResetArrives();
  }
  if (peer->dead) return ResetArrives();
  size_t n = sending_.size();
  const size_t room_there = peer->receive_capacity - std::min(peer->receive_capacity, peer->received.size());
  n = std::min(n, room_there);
  if (n > 1 && world.random.Chance(0.25)) n = world.random.Between(1, n);
  if (n > 0) DeliverBytes(n);
  if (sending_.empty() && fin_queued_ && !fin_delivered_ && world.random.Chance(0.8)) DeliverFin();
  ScheduleDelivery();
}

void Endpoint::DeliverBytes(size_t n) {
  peer->Arrive(sending_.front(n));
  sending_.Pop(n);
  ++world.progress;
  peer->last_heard = last_heard = world.events.now();
  WakeIfThereIsRoom();  // sk_stream_write_space()
}

void Endpoint::Arrive(Bytes bytes) {
  last_came = world.events.now();
  if (received.empty()) unread_since = last_came;
  received.Push(bytes);
  arrived += bytes.size();
  Wake(POLLIN);
}

void Endpoint::WakeIfThereIsRoom() {
  if (!no_space_ || !IsWritable()) return;
  no_space_ = false;
  Wake(POLLOUT);
}

void Endpoint::DeliverFin() {
  fin_delivered_ = true;
  ++world.progress;
  HUD_TRACE(world, peer->name, " gets FIN behind ", peer->arrived);
  if (peer->received.empty()) peer->unread_since = world.events.now();
  peer->fin_came = peer->receive_shut = true;
  peer->last_heard = last_heard = world.events.now();
  if (fin_came) dead = true;  // both streams have ended, and all is acknowledged
  if (peer->fin_delivered_) peer->dead = true;
  peer->Wake(0);
  Wake(0);
}

// tcp_reset(): what was received stays, what was to be sent is gone.
void Endpoint::ResetArrives() {
  if (dead) return;
  if (state == State::kConnecting) {
    error = ECONNREFUSED;
  } else {
    error = fin_came && !send_shut ? EPIPE : ECONNRESET;  // CLOSE_WAIT
  }
  HUD_TRACE(world, name, " gets RST behind ", arrived, fin_came ? " and FIN" : "");
  ++world.progress;
  reset_came = true;
  sending_.Clear();
  send_shut = receive_shut = dead = true;
  Wake(0);
}

void Endpoint::LoseInFlight() {
  if (dead) return;
  sending_.Clear();
  dead = true;
}

// Some of what was on its way still arrives, and the reset right behind it.
void Endpoint::SendReset() {
  if (dead || vanished || !peer) return;
  reset_on_its_way_ = true;
  send_shut = true;
  HUD_TRACE(world, name, " sends RST");
  world.events.After(world.random.Time(kFastest, kSlowest), [self = shared_from_this()] {
    if (!std::exchange(self->reset_on_its_way_, false) || self->dead || self->peer->vanished) return;
    const size_t room_there = self->peer->receive_capacity - std::min(self->peer->receive_capacity, self->peer->received.size());
    const size_t n = std::min(self->sending_.size(), room_there);
    const size_t before = self->world.random.Chance(0.5) ? n : self->world.random.Below(n + 1);
    if (before > 0 && !self->peer->orphan_ && !self->peer->dead) self->DeliverBytes(before);
    self->LoseInFlight();
    self->peer->ResetArrives();
  });
}

bool Endpoint::ResetStrikes() {
  if (is_unix || !peer || dead || peer->dead || peer->vanished) return false;
  if (!peer->means_to_reset && !peer->reset_on_its_way_) return false;
  peer->reset_on_its_way_ = false;
  peer->orphan_ = true;
  peer->LoseInFlight();
  ResetArrives();
  return true;
}

void Endpoint::ResetMayStrikeTransfer() {
  if (world.faults.Happens(Fault::kResetWithinTransfer)) (void)ResetStrikes();
  if (is_unix || error == 0) return;
  HUD_TRACE(world, name, ": a transfer keeps its error ", error, " to itself");
  error = 0;
}

// ---- Ends

void Endpoint::CloseUnix() {
  dead = orphan_ = true;
  if (!peer || peer->orphan_) return;
  peer->receive_shut = peer->send_shut = peer->fin_came = true;
  if (!received.empty()) peer->error = ECONNRESET;
  if (!received.empty()) peer->reset_came = true;
  ++world.progress;
  peer->Wake(0);
}

void Endpoint::LastClose() {
  if (orphan_) return;
  HUD_TRACE(world, name, " is closed", linger_zero_ ? " to reset" : "", received.empty() ? "" : " with unread bytes");
  if (is_unix) return CloseUnix();
  orphan_ = true;
  if (state != State::kConnected) {
    dead = true;
    return;
  }
  if (dead) return;
  if (linger_zero_ || !received.empty()) return SendReset();
  EndStream();
  if (peer) peer->ScheduleDelivery();
}

void Endpoint::Reset() {
  ResetOnClose();
  LastClose();
}

void Endpoint::CutOff(int how) {
  HUD_TRACE(world, name, " is cut off");
  orphan_ = true;
  LoseInFlight();
  if (peer) peer->TimeOut(how);
}

void Endpoint::TimeOut(int how) {
  if (dead) return;
  HUD_TRACE(world, name, ": its peer does not answer, ", how);
  ++world.progress;
  error = how;
  reset_came = true;
  sending_.Clear();
  send_shut = receive_shut = dead = true;
  Wake(0);
}

void Endpoint::Vanish() {
  vanished = true;
  HUD_TRACE(world, name, " vanishes");
}

void Listener::LastClose() {
  for (const std::shared_ptr<Endpoint>& end : queue) end->Reset();
  queue.clear();
}

std::shared_ptr<Endpoint> Listener::ConnectFrom(const SocketAddress& client) {
  auto theirs = std::make_shared<Endpoint>(world_, "client " + client.ToString(), false);
  auto ours = std::make_shared<Endpoint>(world_, "proxy's end of client " + client.ToString(), false);
  theirs->local = ours->remote = client;
  theirs->remote = ours->local = address;
  theirs->state = Endpoint::State::kConnecting;
  Endpoint::Join(ours, theirs);
  world_.events.After(world_.random.Time(kFastest, kSlowest), [this, ours] { Arrives(ours, 0); });
  return theirs;
}

void Listener::Arrives(const std::shared_ptr<Endpoint>& end, int tries) {
  if (closed && holders == 0) {
    end->peer->error = ECONNREFUSED;
    end->peer->dead = end->peer->receive_shut = true;
    return;
  }
  if (end->peer->dead) return;  // its client has given up
  if (queue.size() >= backlog) {
    if (tries == kSynRetries) return end->peer->TimeOut();
    return world_.events.After(kSynRetry, [this, end, tries] { Arrives(end, tries + 1); });
  }
  Endpoint::Connect(end, end->peer);
  queue.push_back(end);
  HUD_TRACE(world_, end->peer->name, " is connected");
  Wake(POLLIN);
}

void PipeBuffer::Take(size_t n) {
  bytes.Pop(n);
  while (n > 0) {
    size_t& first = fragments.front();
    const size_t part = std::min(first, n);
    first -= part;
    n -= part;
    if (first == 0) fragments.pop_front();
  }
}

}  // namespace hud::simulation
