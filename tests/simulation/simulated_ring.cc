#include "tests/simulation/simulated_ring.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/net/local_error.h"
#include "ring/io/operation.h"
#include "tests/simulation/scarce_memory.h"

namespace hud::simulation {
namespace {

using namespace std::chrono_literals;

constexpr short kUnmask = POLLERR | POLLHUP | POLLRDHUP;  // IO_POLL_UNMASK: whatever was asked for
constexpr Duration kLongestSleep = 30min;                 // without a deadline: whatever a simulation has planned comes before
constexpr Duration kAbsenceNoticed = 52ms;                // the worker's own, and a little
constexpr Duration kCaughtUpWithin = 150ms;
constexpr int kMultishotRun = 32;                         // MULTISHOT_MAX_RETRY

}  // namespace

SimulatedRing::SimulatedRing(SimulatedKernel& kernel, const RingFeatures& features)
    : kernel_(kernel), world_(kernel.world()), features_(features), memory_(features.buffers * features.buffer_bytes),
      is_with_caller_(features.buffers, false) {
  for (size_t i = features.buffers; i-- > 0;) free_.push_back(static_cast<uint16_t>(i));
}

// The descriptors that wait to be closed are closed. Nobody is there any more to be told of anything.
SimulatedRing::~SimulatedRing() {
  *alive_ = false;
  for (const RequestPtr& r : queue_) {
    if (r->kind == Kind::kClose) kernel_.Close(Fd(r->fd));
  }
  for (auto& [file, requests] : std::exchange(waiting_, {})) {
    file->on_wake = nullptr;
    for (const RequestPtr& r : requests) kernel_.Release(r->file);
  }
}

std::vector<std::string> SimulatedRing::RequestsLeft() const {
  std::vector<std::string> left;
  if (losses_ > 0) return left;
  for (const auto& [file, requests] : waiting_) {
    if (dynamic_cast<EventCounter*>(file) == nullptr && !requests.empty()) left.push_back("a request waits for " + file->name);
  }
  if (notifications_owed_ > 0) left.push_back("a zero-copy notification is owed");
  return left;
}

// ---- Requests

void SimulatedRing::Queue(Request request) {
  const bool may_fail = request.kind == Kind::kSend || request.kind == Kind::kConnect;  // KernelRing keeps note of its silent sends
  if (may_fail && world_.faults.Happens(Fault::kNoMemory)) throw std::bad_alloc();
  const EnoughMemory enough;
  if (queue_.size() >= features_.submission_entries) SubmitQueue();
  request.hash = HashOf(request.data);
  queue_.push_back(std::make_shared<Request>(std::move(request)));
}

void SimulatedRing::AcceptMultishot(int fd, uint64_t user_data) { Queue({.kind = Kind::kAccept, .fd = fd, .user_data = user_data, .multishot = true}); }
void SimulatedRing::AcceptOne(int fd, uint64_t user_data) { Queue({.kind = Kind::kAccept, .fd = fd, .user_data = user_data}); }

void SimulatedRing::Recv(int fd, Expected expected, uint64_t user_data) {
  Queue({.kind = Kind::kRecv, .fd = fd, .user_data = user_data, .expected = expected});
}

void SimulatedRing::RecvMultishot(int fd, Expected expected, uint32_t limit, uint64_t user_data) {
  Queue({.kind = Kind::kRecv, .fd = fd, .user_data = user_data, .multishot = features_.bounded_multishot_recv, .expected = expected, .limit = limit});
}

void SimulatedRing::Send(int fd, Bytes data, uint64_t user_data) { Queue({.kind = Kind::kSend, .fd = fd, .user_data = user_data, .data = data}); }

void SimulatedRing::SendZeroCopy(int fd, Bytes data, uint64_t user_data) {
  Queue({.kind = Kind::kZeroCopy, .fd = fd, .user_data = user_data, .data = data});
}

void SimulatedRing::ConnectAndSend(int fd, const sockaddr* address, socklen_t size, uint64_t connect_tag, Bytes data, uint64_t send_tag) {
  Queue({.kind = Kind::kConnect, .fd = fd, .user_data = connect_tag, .send_tag = send_tag, .data = data, .address = address, .address_size = size});
}

void SimulatedRing::Poll(int fd, uint32_t events, uint64_t user_data) { Queue({.kind = Kind::kPoll, .fd = fd, .user_data = user_data, .events = events}); }

void SimulatedRing::PollChanges(int fd, uint32_t events, uint64_t user_data) {
  Queue({.kind = Kind::kPollChanges, .fd = fd, .user_data = user_data, .multishot = true, .events = events});
}

void SimulatedRing::Cancel(uint64_t target) { Queue({.kind = Kind::kCancel, .user_data = target}); }
void SimulatedRing::Close(Fd fd) { Queue({.kind = Kind::kClose, .fd = fd.Release()}); }

void SimulatedRing::Submit() {
  const EnoughMemory enough;
  SubmitQueue();
}

// What one submission does not take goes with the next.
void SimulatedRing::SubmitQueue() {
  kernel_.Enter();
  size_t n = queue_.size();
  if (n > 1 && world_.faults.Happens(Fault::kPartialSubmission)) n = world_.random.Between(1, n - 1);
  for (; n > 0; --n) {
    const RequestPtr r = queue_.front();
    queue_.pop_front();
    Start(r);
  }
}

void SimulatedRing::Start(const RequestPtr& r) {
  if (r->kind == Kind::kCancel) return StartCancel(r->user_data);
  if (r->kind == Kind::kClose) return kernel_.Close(Fd(r->fd));
  r->file = kernel_.FileOf(r->fd);
  if (!r->file) return;  // and that is a violation
  ++r->file->holders;
  if (!pending_.emplace(r->user_data, r).second) world_.Violation(absl::StrCat("OneRequestATag: two are pending with the same user_data, of ", r->file->name));
  switch (r->kind) {
    case Kind::kSend: return StartSend(r);
    case Kind::kZeroCopy: return StartZeroCopy(r);
    case Kind::kConnect: return StartConnect(r);
    case Kind::kRecv: {
      if (r->endpoint().readers++ > 0) world_.Violation(absl::StrCat("OneReader: a second receive on ", r->file->name));
      if (r->expected == Expected::kNow) RunRecv(r);
      if (r->ended) return;
      WaitFor(r);
      if (IsReady(*r)) MakeRunnable(r);
      return;
    }
    default:
      WaitFor(r);
      if (IsReady(*r)) MakeRunnable(r);
  }
}

void SimulatedRing::WaitFor(const RequestPtr& r) {
  File* file = r->file.get();
  waiting_[file].push_back(r);
  if (!file->on_wake) file->on_wake = [this, file](short key) { Woken(file, key); };
}

// Wakers say what for; who waits for something else sleeps on.
void SimulatedRing::Woken(File* file, short key) {
  const auto found = waiting_.find(file);
  if (found == waiting_.end()) return;
  for (const RequestPtr& r : found->second) {
    const auto wanted = static_cast<short>(r->kind == Kind::kPoll || r->kind == Kind::kPollChanges ? static_cast<short>(r->events) | kUnmask : POLLIN | kUnmask);
    if (key == 0 || (key & wanted) != 0) MakeRunnable(r);
  }
}

void SimulatedRing::MakeRunnable(const RequestPtr& r) {
  if (r->runnable || r->ended) return;
  r->runnable = true;
  runnable_.push_back(r);
}

bool SimulatedRing::IsReady(const Request& r) const {
  const short events = r.file->Events();
  switch (r.kind) {
    case Kind::kPoll:
    case Kind::kPollChanges: return (events & (static_cast<short>(r.events) | kUnmask)) != 0;
    case Kind::kConnect: {
      const auto& end = static_cast<const Endpoint&>(*r.file);
      return end.state == Endpoint::State::kConnected || end.error != 0;
    }
    default: return (events & (POLLIN | kUnmask)) != 0;
  }
}

// io_poll_check_events(): several wake-ups are taken for one, and what is not true any more is no event.
void SimulatedRing::Run(const RequestPtr& r) {
  r->runnable = false;
  if (r->ended || !IsReady(*r)) return;
  switch (r->kind) {
    case Kind::kAccept: return RunAccept(r);
    case Kind::kRecv: return RunRecv(r);
    case Kind::kConnect: return RunConnect(r);
    default: return RunPoll(r);
  }
}

void SimulatedRing::RunAccept(const RequestPtr& r) {
  auto& listener = static_cast<Listener&>(*r->file);
  while (!r->ended) {
    const int fd = kernel_.AcceptFrom(listener);
    if (fd == -EAGAIN) return;
    if (fd < 0 || !r->multishot) return PostAndEnd(r, {.result = fd});
    Post(r, {.result = fd, .more = true});
  }
}

// A multishot receive looks again only where the socket says that there is more: that is how an end can hide from it.
void SimulatedRing::RunRecv(const RequestPtr& r) {
  Endpoint& end = r->endpoint();
  for (int i = 0; i < kMultishotRun; ++i) {
    if (free_.empty()) return PostAndEnd(r, {.result = -ENOBUFS});
    if (world_.faults.Happens(Fault::kReceiveNoMemory)) return PostAndEnd(r, {.result = -kernel_.MeetShortage(end)});
    const uint16_t buffer = free_.back();
    const ssize_t n = end.Take(memory_.data() + buffer * features_.buffer_bytes, features_.buffer_bytes);
    if (n == -EAGAIN) return;
    if (n <= 0) return PostAndEnd(r, {.result = static_cast<int32_t>(n)});
    free_.pop_back();
    const auto length = static_cast<uint32_t>(n);
    r->limit -= std::min(r->limit, length);
    const bool more = r->multishot && r->limit > 0;
    const Completion c{.result = static_cast<int32_t>(n), .more = more, .has_buffer = true, .more_to_read = end.MoreToRead(), .buffer = buffer};
    if (!more) return PostAndEnd(r, c);
    if (!Post(r, c)) return;
    if (!end.MoreToRead()) return;
  }
  MakeRunnable(r);
}

void SimulatedRing::RunPoll(const RequestPtr& r) {
  auto* end = dynamic_cast<Endpoint*>(r->file.get());
  if (end != nullptr && world_.faults.Happens(Fault::kPollNoMemory)) return PostAndEnd(r, {.result = -kernel_.MeetShortage(*end)});
  const auto events = static_cast<short>(r->file->Events() & (static_cast<short>(r->events) | kUnmask));
  const Completion c{.result = events, .more = r->kind == Kind::kPollChanges};
  c.more ? (void)Post(r, c) : PostAndEnd(r, c);
}

// ---- Sends

// Never waits. A send that took a part is tried again by the kernel, MSG_WAITALL: so what stopped it may be told to that try.
void SimulatedRing::StartSend(const RequestPtr& r) {
  if (world_.faults.Happens(Fault::kResetBeforeSend)) (void)r->endpoint().ResetStrikes();
  if (world_.faults.Happens(Fault::kSendNoMemory)) return PostAndEnd(r, {.result = -kernel_.MeetShortage(r->endpoint())});
  const ssize_t n = r->endpoint().Send(r->data);
  if (n > 0 && static_cast<size_t>(n) < r->data.size()) r->endpoint().ResetMayStrikeTransfer();
  if (features_.silent_sends && n == static_cast<ssize_t>(r->data.size())) {
    silent_.push_back({{.user_data = r->user_data, .result = static_cast<int32_t>(n)}, r->data, r->hash});
    return End(r);
  }
  PostAndEnd(r, {.result = static_cast<int32_t>(n)});
}

void SimulatedRing::StartZeroCopy(const RequestPtr& r) {
  if (r->endpoint().is_unix || world_.faults.Happens(Fault::kZeroCopyRefused)) return PostAndEnd(r, {.result = -EOPNOTSUPP});
  if (world_.faults.Happens(Fault::kZeroCopyNoMemory)) return PostAndEnd(r, {.result = -ENOMEM});
  const ssize_t n = r->endpoint().Send(r->data);
  ++notifications_owed_;
  (void)Post(r, {.result = static_cast<int32_t>(n), .more = true});
  pending_.erase(r->user_data);  // the same buffer may be sent on meanwhile
  Notify(r);
}

void SimulatedRing::Notify(const RequestPtr& r) {
  const Duration delay = world_.faults.Happens(Fault::kZeroCopyLate) ? world_.random.Time(10ms, 20s) : world_.random.Time(1us, 1ms);
  const int32_t copied = world_.faults.Happens(Fault::kZeroCopyCopied) ? static_cast<int32_t>(kZeroCopyCopied) : 0;
  world_.events.After(delay, [this, r, copied, alive = alive_] {
    if (!*alive) return;
    --notifications_owed_;
    PostAndEnd(r, {.result = copied, .notification = true});
  });
}

// ---- Connects

void SimulatedRing::CannotBegin(const RequestPtr& r) {
  const Completion connect{.user_data = r->user_data, .result = world_.random.Chance(0.5) ? -ENOMEM : -ECANCELED};
  const Completion send{.user_data = r->send_tag, .result = world_.random.Chance(0.5) ? -ENOMEM : -ECANCELED};
  const bool connect_first = world_.random.Chance(0.5);
  const Completion second = connect_first ? send : connect;
  completions_.push_back({connect_first ? connect : send, r->data, r->hash});
  const auto straggler = [this, second, alive = alive_] {
    if (*alive) completions_.push_back({second, {}, 0});
  };
  world_.random.Chance(0.5) ? straggler() : world_.events.After(world_.random.Time(1us, 20ms), straggler);
  End(r);
}

// *AHelloGoesToOneNode*: whoever was connected has perhaps read it; nobody else is asked then.
void SimulatedRing::NoteSentHello(const Request& r, ssize_t result) {
  Tag tag = Tag::Unpack(r.user_data);
  tag = {.slot = tag.slot, .generation = tag.generation, .room = tag.room};
  const bool nothing_happened = result < 0 && IsLocalError(static_cast<int>(-result));
  if (!nothing_happened) sent_hello_.insert(tag.Pack());
}

void SimulatedRing::StartConnect(const RequestPtr& r) {
  const Tag tag = Tag::Unpack(r->user_data);
  if (sent_hello_.contains(Tag{.slot = tag.slot, .generation = tag.generation, .room = tag.room}.Pack())) {
    world_.Violation("AHelloGoesToOneNode: a connect behind one that had succeeded");
  }
  if (world_.faults.Happens(Fault::kConnectCannotBegin)) return CannotBegin(r);
  const SocketAddress address = SocketAddress::FromSockaddr(r->address, r->address_size);
  Destination* destination = kernel_.DestinationAt(address);
  const Answer answer = destination != nullptr ? destination->Decide() : Answer{Answer::Kind::kRefused, 10us};
  Endpoint& end = r->endpoint();
  end.state = Endpoint::State::kConnecting;
  end.remote = address;
  WaitFor(r);
  if (answer.kind == Answer::Kind::kNever) return;
  const auto ours = std::static_pointer_cast<Endpoint>(r->file);
  world_.events.After(answer.after, [this, ours, answer, destination, address] {
    if (ours->dead || ours->state != Endpoint::State::kConnecting) return;
    if (answer.kind == Answer::Kind::kRefused) {
      ours->error = ECONNREFUSED;
      ours->dead = ours->send_shut = ours->receive_shut = true;
      return ours->Wake(0);
    }
    auto theirs = std::make_shared<Endpoint>(world_, absl::StrCat("node's end of ", ours->name), false);
    theirs->local = address;
    Endpoint::Connect(ours, theirs);
    destination->Connected(theirs);
  });
}

void SimulatedRing::RunConnect(const RequestPtr& r) {
  Endpoint& end = r->endpoint();
  if (end.dead) {  // inet_stream_connect()
    const int error = end.TakeError();
    ++world_.nodes_faults;
    return PostAndEnd(r, {.result = error != 0 ? -error : -ECONNABORTED});
  }
  if (world_.faults.Happens(Fault::kResetBeforeSend)) (void)end.ResetStrikes();
  const bool no_memory = world_.faults.Happens(Fault::kSendNoMemory);
  const ssize_t n = no_memory ? -kernel_.MeetShortage(end) : end.Send(r->data);
  NoteSentHello(*r, n);
  completions_.push_back({{.user_data = r->send_tag, .result = static_cast<int32_t>(n)}, r->data, r->hash});
  End(r);
}

// ---- Cancels

void SimulatedRing::StartCancel(uint64_t target) {
  cancels_ = true;
  const auto found = pending_.find(target);
  if (found == pending_.end()) return;
  const RequestPtr r = found->second;
  if (world_.faults.Happens(Fault::kCancelLoses)) Run(r);
  if (r->ended) return;
  if (r->kind == Kind::kConnect) {  // by the clock, perhaps: then a node that had answered while we slept is not at fault
    const bool answered = r->endpoint().IsConnected() && world_.CameInAnAbsence(r->endpoint().connected_at);
    world_.nodes_faults += !answered;
  }
  PostAndEnd(r, {.result = -ECANCELED});
}

// ---- Completions

void SimulatedRing::End(const RequestPtr& r) {
  if (std::exchange(r->ended, true)) return world_.Violation("the simulation ended a request twice");
  if (const auto found = pending_.find(r->user_data); found != pending_.end() && found->second == r) pending_.erase(found);
  if (const auto found = waiting_.find(r->file.get()); found != waiting_.end()) {
    std::erase(found->second, r);
    if (found->second.empty()) {
      r->file->on_wake = nullptr;
      waiting_.erase(found);
    }
  }
  if (r->kind == Kind::kRecv) --r->endpoint().readers;
  kernel_.Release(r->file);
}

// False: the request has ended, for the queue is full. What it says is kept all the same, or lost.
bool SimulatedRing::Post(const RequestPtr& r, Completion completion) {
  completion.user_data = r->user_data;
  HUD_TRACE(world_, "  completes: ", r->file->name, " kind ", static_cast<int>(r->kind), " result ", completion.result,
            completion.more ? " more" : "", completion.more_to_read ? " more to read" : "", completion.notification ? " notification" : "");
  if (world_.faults.Happens(Fault::kCompletionLost)) {
    ++losses_;
    HUD_TRACE(world_, "  and is lost");
    if (r->kind == Kind::kAccept && completion.result >= 0) kernel_.Close(Fd(completion.result));
    return true;
  }
  const bool full = completions_.size() >= features_.completion_entries;
  if (full) {
    ++overflows_;
    overflowed_ = true;
    if (r->multishot && completion.more) completion.more = false;
  }
  completions_.push_back({completion, r->data, r->hash});
  if (!full || !r->multishot || r->ended) return true;
  End(r);
  return false;
}

void SimulatedRing::PostAndEnd(const RequestPtr& r, Completion completion) {
  if (Post(r, completion) || !r->ended) End(r);
}

void SimulatedRing::RunRunnable(bool all) {
  for (size_t n = runnable_.size(); n > 0 && !runnable_.empty(); --n) {
    const RequestPtr r = runnable_.front();
    runnable_.pop_front();
    if (!all && !r->ended && world_.faults.Happens(Fault::kLateCompletion)) {
      deferred_.push_back(r);
    } else {
      Run(r);
    }
  }
}

void SimulatedRing::Sleep(Duration timeout, Batch batch) {
  const Instant begin = world_.events.now();
  const Instant deadline = timeout == Duration::max() ? Instant::max() : begin + timeout;
  const size_t wanted = features_.minimum_wait ? std::max(1u, batch.completions) : 1;
  const Instant patience_until = begin + batch.patience;
  while (true) {
    RunRunnable(false);
    if (completions_.size() >= wanted || losses_ > losses_told_) return;  // -EBADR ends the wait
    const bool patient = completions_.empty() || world_.events.now() < patience_until;
    if (!patient || (world_.interrupts && world_.interrupts())) return;
    if (!deferred_.empty()) {
      runnable_.swap(deferred_);
      RunRunnable(true);
      continue;
    }
    const Instant limit = completions_.empty() ? deadline : std::min(deadline, patience_until);
    const Instant next = world_.events.next();
    if (next > limit) return world_.events.RunUntil(limit);
    if (next == Instant::max() || next > begin + kLongestSleep) return world_.Violation("SomethingAlwaysFollows: the worker sleeps for ever");
    world_.events.RunUntil(next);
  }
}

// SIGSTOP. The wait ends when the process goes on (-EINTR); what has happened meanwhile is told by that one or by the next.
void SimulatedRing::BeStopped(Instant due) {
  const Instant from = world_.events.now();
  const Duration jump = world_.random.Time(1ms, 100s);
  HUD_TRACE(world_, "the process is stopped for ", jump / 1ms, " ms");
  world_.events.RunUntil(from + jump);
  if (world_.random.Chance(0.5)) RunRunnable(false);
  const bool noticed = world_.events.now() > due && world_.events.now() - due > kAbsenceNoticed;
  // Who was given up before has nothing to do with it (cancels_).
  const bool once = from - world_.away_until > kCaughtUpWithin;  // one absence right behind another is taken for a busy machine
  if (noticed) world_.away_until = world_.events.now();
  world_.away_from = noticed && once && !cancels_ ? from : world_.away_until;
}

size_t SimulatedRing::Wait(std::span<Completion> completions, Duration timeout, Batch batch) {
  const EnoughMemory enough;
  const Instant due = timeout == Duration::max() ? Instant::max() : world_.events.now() + timeout;
  for (; !deferred_.empty(); deferred_.pop_front()) runnable_.push_back(deferred_.front());
  SubmitQueue();
  const bool took_all = queue_.empty();
  if (!completions_.empty() || left_over_ || timeout == Duration::zero() || !took_all) {
    RunRunnable(false);
  } else {
    Sleep(timeout, batch);
  }
  if (world_.faults.Happens(Fault::kTimeJump)) BeStopped(due);
  const size_t n = Harvest(completions);
  left_over_ = !silent_.empty() || !queue_.empty();
  losses_told_ = losses_;
  cancels_ = false;
  return n;
}

size_t SimulatedRing::Harvest(std::span<Completion> completions) {
  size_t n = 0;
  const auto take = [&](std::deque<Posted>& from) {
    for (; n < completions.size() && !from.empty(); from.pop_front()) {
      CheckMemory(from.front());
      Completion& c = completions[n++] = from.front().completion;
      if (!c.has_buffer) continue;
      is_with_caller_[c.buffer] = true;
      ++with_caller_;
    }
  };
  if (!std::exchange(overflowed_, false)) take(silent_);
  take(completions_);
  return n;
}

// *InFlightPinsMemory*: what is being sent stays as it is until its completion has been handed out.
void SimulatedRing::CheckMemory(const Posted& posted) {
  if (losses_ > 0) return;  // whoever has given up waiting for a completion may have let go of the memory
  if (!posted.data.empty() && HashOf(posted.data) != posted.hash) {
    world_.Violation("InFlightPinsMemory: the memory of a send has changed before its completion");
  }
}

uint64_t SimulatedRing::HashOf(Bytes data) {
  return data.empty() ? 0 : std::hash<std::string_view>()({reinterpret_cast<const char*>(data.data()), data.size()});
}

Bytes SimulatedRing::BufferBytes(uint16_t buffer) const { return {memory_.data() + buffer * features_.buffer_bytes, features_.buffer_bytes}; }

void SimulatedRing::ReturnBuffer(uint16_t buffer) {
  const EnoughMemory enough;
  if (buffer >= features_.buffers || !is_with_caller_[buffer]) return world_.Violation("a buffer was returned that nobody had");
  is_with_caller_[buffer] = false;
  --with_caller_;
  std::memset(memory_.data() + buffer * features_.buffer_bytes, 0xdd, features_.buffer_bytes);  // whoever still reads it shall notice
  free_.insert(free_.begin(), buffer);
}

}  // namespace hud::simulation
