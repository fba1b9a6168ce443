#include "tests/simulation/simulated_kernel.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/simulation/scarce_memory.h"

namespace hud::simulation {

using namespace std::chrono_literals;

void SimulatedKernel::Enter() {
  Random& random = world_.random;
  const Duration passes = world_.faults.Happens(Fault::kTimeWithinTurn) ? random.Time(1us, 1ms) : Duration(random.Below(400));
  world_.events.RunUntil(world_.events.now() + passes);
}

Instant SimulatedKernel::Now() { return world_.events.now(); }

// ---- Descriptors

int SimulatedKernel::Give(std::shared_ptr<File> file) {
  const int fd = next_++;
  HUD_TRACE(world_, "fd ", fd - kFirst, " is ", file->name);
  files_[fd] = std::move(file);
  return fd;
}

std::shared_ptr<File> SimulatedKernel::FileOf(int fd) {
  const auto found = files_.find(fd);
  if (found != files_.end()) return found->second;
  world_.Violation(absl::StrCat("UseOfOpenDescriptors: ", fd, " is none"));
  return nullptr;
}

void SimulatedKernel::Close(Fd fd) {
  const EnoughMemory enough;
  if (!fd) return;
  Enter();
  const auto found = files_.find(fd.Release());
  if (found == files_.end()) return world_.Violation("ClosedOnce: a descriptor was closed that is not open");
  const std::shared_ptr<File> file = found->second;
  files_.erase(found);
  file->closed = true;
  if (file->holders == 0) file->LastClose();
}

void SimulatedKernel::Release(const std::shared_ptr<File>& file) {
  if (--file->holders == 0 && file->closed) file->LastClose();
}

std::vector<std::string> SimulatedKernel::OpenDescriptors() const {
  std::vector<std::string> all;
  for (const auto& [fd, file] : files_) all.push_back(absl::StrCat(fd - kFirst, " ", file->name));
  return all;
}

// ---- Connections

std::shared_ptr<Listener> SimulatedKernel::Listen(const SocketAddress& address, size_t backlog) {
  return std::make_shared<Listener>(world_, address, backlog);
}

int SimulatedKernel::AcceptFrom(Listener& listener) {
  if (world_.faults.Happens(Fault::kNoDescriptor)) {
    constexpr int kErrors[] = {EMFILE, ENFILE, ENOMEM, ENOBUFS};
    return -kErrors[world_.random.Below(std::size(kErrors))];
  }
  if (listener.queue.empty()) return -EAGAIN;
  const int fd = Give(listener.queue.front());
  listener.queue.pop_front();
  ++world_.progress;
  return fd;
}

int SimulatedKernel::Accept(int listener) {
  const EnoughMemory enough;
  Enter();
  const auto file = As<Listener>(listener);
  return file ? AcceptFrom(*file) : -EBADF;
}

int SimulatedKernel::Open(const SocketAddress& address) {
  const EnoughMemory enough;
  Enter();
  if (world_.faults.Happens(Fault::kNoDescriptor)) return -EMFILE;
  return Give(std::make_shared<Endpoint>(world_, absl::StrCat("proxy's socket ", sockets_++, " for ", address.ToString()), address.IsUnix()));
}

Destination* SimulatedKernel::DestinationAt(const SocketAddress& address) {
  const auto found = destinations_.find(address.ToString());
  if (found != destinations_.end()) return found->second;
  if (somebody_is_everywhere_) world_.Violation("AConnectGoesToANode: no node is at " + address.ToString());
  return nullptr;
}

// Of a unix socket: at once or not at all.
int SimulatedKernel::Connect(int fd, const SocketAddress& address) {
  const EnoughMemory enough;
  Enter();
  const auto ours = Socket(fd);
  if (!ours) return -EBADF;
  if (world_.faults.Happens(Fault::kUnixBacklogFull)) return -EAGAIN;
  Destination* destination = DestinationAt(address);
  if (destination == nullptr || destination->Decide().kind != Answer::Kind::kAccepted) {
    ++world_.nodes_faults;
    return -ECONNREFUSED;
  }
  auto theirs = std::make_shared<Endpoint>(world_, absl::StrCat("node's end of ", ours->name), true);
  theirs->local = ours->remote = address;
  Endpoint::Connect(ours, theirs);
  destination->Connected(theirs);
  return 0;
}

bool SimulatedKernel::IsConnected(int fd) {
  const auto socket = Socket(fd);
  return socket && socket->IsConnected();
}

SocketAddress SimulatedKernel::PeerOf(int fd) {
  const EnoughMemory enough;
  Enter();
  const auto socket = Socket(fd);
  return socket && socket->IsConnected() ? socket->remote : SocketAddress();
}

SocketAddress SimulatedKernel::LocalOf(int fd) {
  const auto socket = Socket(fd);
  return socket ? socket->local : SocketAddress();
}

// ---- Bytes

ssize_t SimulatedKernel::Receive(int fd, std::span<uint8_t> into) {
  const EnoughMemory enough;
  Enter();
  const auto socket = Socket(fd);
  if (!socket) return -EBADF;
  CheckOneReader(*socket);
  if (world_.faults.Happens(Fault::kReceiveNoMemory)) return -MeetShortage(*socket);
  return socket->Receive(into);
}

ssize_t SimulatedKernel::Send(int fd, Bytes data) {
  const EnoughMemory enough;
  Enter();
  const auto socket = Socket(fd);
  return socket ? socket->Send(data) : -EBADF;
}

ssize_t SimulatedKernel::Splice(int from, int to, size_t bytes) {
  const EnoughMemory enough;
  Enter();
  const auto source = FileOf(from), sink = FileOf(to);
  const auto out_of = std::dynamic_pointer_cast<PipeBuffer>(source);
  const auto into = std::dynamic_pointer_cast<PipeBuffer>(sink);
  if (source && sink && SpliceFails(*source, *sink)) return -ENOMEM;
  if (into && !out_of && source) {
    CheckOneReader(static_cast<Endpoint&>(*source));
    return SpliceIn(static_cast<Endpoint&>(*source), *into, bytes);
  }
  if (out_of && !into && sink) return SpliceOut(*out_of, static_cast<Endpoint&>(*sink), bytes);
  return -EBADF;
}

bool SimulatedKernel::SpliceFails(File& source, File& sink) {
  if (!world_.faults.Happens(Fault::kSpliceNoMemory)) return false;
  for (File* file : {&source, &sink}) {
    if (auto* socket = dynamic_cast<Endpoint*>(file)) socket->met_a_shortage = true;
  }
  return true;
}

int SimulatedKernel::MeetShortage(Endpoint& end) {
  end.met_a_shortage = true;
  HUD_TRACE(world_, end.name, " meets a shortage");
  return world_.random.Chance(0.7) ? ENOMEM : EIO;
}

// *OneReader*: bytes that a receive and a direct call take turns at come in no order.
void SimulatedKernel::CheckOneReader(const Endpoint& end) {
  if (end.readers > 0) world_.Violation(absl::StrCat("OneReader: a direct read beside a receive on ", end.name));
}

// Slot by slot: a fragment is what a segment, a page or a compound page holds.
ssize_t SimulatedKernel::SpliceIn(Endpoint& from, PipeBuffer& pipe, size_t bytes) {
  constexpr size_t kFragments[] = {1448, 4096, 65536};
  const size_t fragment = world_.random.Chance(0.1) ? world_.random.Between(1, 1448) : kFragments[world_.random.Below(3)];
  size_t moved = 0;
  std::vector<uint8_t> part(std::min(bytes, fragment));
  while (moved < bytes && pipe.free_slots() > 0) {
    const ssize_t n = from.Take(part.data(), std::min(part.size(), bytes - moved));
    if (n <= 0) return moved > 0 ? static_cast<ssize_t>(moved) : n;
    pipe.bytes.Push({part.data(), static_cast<size_t>(n)});
    pipe.fragments.push_back(static_cast<size_t>(n));
    moved += static_cast<size_t>(n);
    if (from.received.empty()) break;  // what stops it behind bytes is asked for by the next call
  }
  return moved > 0 ? static_cast<ssize_t>(moved) : -EAGAIN;
}

// splice_to_socket(): what stopped a transfer that moved something is told to nobody.
ssize_t SimulatedKernel::SpliceOut(PipeBuffer& pipe, Endpoint& to, size_t bytes) {
  const size_t wanted = std::min(bytes, pipe.size());
  if (wanted == 0) return -EAGAIN;
  const ssize_t n = to.Send(pipe.bytes.front(wanted));
  if (n <= 0) return n;
  pipe.Take(static_cast<size_t>(n));
  if (static_cast<size_t>(n) < wanted) to.ResetMayStrikeTransfer();
  return n;
}

std::optional<Pipe> SimulatedKernel::MakePipe(size_t bytes) {
  const EnoughMemory enough;
  Enter();
  if (world_.faults.Happens(Fault::kNoDescriptor)) return std::nullopt;
  const size_t capacity = world_.faults.Happens(Fault::kSmallPipe) ? 8192 : bytes;
  const auto pipe = std::make_shared<PipeBuffer>("pipe", capacity);
  Pipe made;
  made.read_end = Fd(Give(pipe));
  made.write_end = Fd(Give(pipe));
  made.capacity = static_cast<uint32_t>(capacity);
  return made;
}

ssize_t SimulatedKernel::ReadPipe(const Pipe& pipe, std::span<uint8_t> into) {
  const EnoughMemory enough;
  Enter();
  const auto buffer = As<PipeBuffer>(pipe.read_end.get());
  if (!buffer) return -EBADF;
  const size_t n = std::min(into.size(), buffer->size());
  if (n == 0) return -EAGAIN;
  const Bytes bytes = buffer->bytes.front(n);
  std::copy(bytes.begin(), bytes.end(), into.begin());
  buffer->Take(n);
  ++world_.progress;
  return static_cast<ssize_t>(n);
}

// ---- What is said and asked of a socket

void SimulatedKernel::EndStream(int fd) {
  const EnoughMemory enough;
  Enter();
  if (const auto socket = Socket(fd)) socket->EndStream();
}

void SimulatedKernel::ResetOnClose(int fd) {
  if (const auto socket = Socket(fd)) socket->ResetOnClose();
}

int SimulatedKernel::TakeError(int fd) {
  const EnoughMemory enough;
  Enter();
  const auto socket = Socket(fd);
  return socket ? socket->TakeError() : EBADF;
}

// TCP_INQ beside a peek.
std::optional<bool> SimulatedKernel::FinCame(int fd) {
  const EnoughMemory enough;
  Enter();
  const auto socket = Socket(fd);
  if (!socket || socket->is_unix || !socket->received.empty()) return std::nullopt;
  if (socket->fin_came) return true;
  uint8_t byte;
  if (socket->Take(&byte, 1) != 0) return std::nullopt;  // the peek takes an error, too
  return false;
}

int SimulatedKernel::Poll(std::span<pollfd> sockets) {
  const EnoughMemory enough;
  Enter();
  int ready = 0;
  for (pollfd& p : sockets) {
    const auto file = FileOf(p.fd);
    p.revents = file ? static_cast<short>(file->Events() & (p.events | POLLERR | POLLHUP)) : short{POLLNVAL};
    ready += p.revents != 0;
  }
  return ready;
}

std::optional<SendMemory> SimulatedKernel::SendMemoryOf(int fd) {
  const auto socket = Socket(fd);
  if (!socket) return std::nullopt;
  return SendMemory{static_cast<uint32_t>(2 * socket->send_capacity), static_cast<uint32_t>(2 * socket->used())};
}

uint32_t SimulatedKernel::Unacknowledged(int fd) {
  const EnoughMemory enough;
  Enter();
  const auto socket = Socket(fd);
  return socket ? socket->Unacknowledged() : 0;
}

// TCP asks after a silent peer when bytes are unacknowledged, ever more seldom.
std::optional<PeerSilence> SimulatedKernel::SilenceOf(int fd) {
  const auto socket = Socket(fd);
  if (!socket || socket->is_unix) return std::nullopt;
  const Duration silence = world_.events.now() - socket->last_heard;
  uint32_t unanswered = 0;
  const bool asks = socket->Unacknowledged() > 0 && socket->peer && socket->peer->vanished;
  for (Duration pause = 200ms, asked{}; asks && asked + pause < silence; pause = std::min<Duration>(2 * pause, 2min)) {
    asked += pause;
    ++unanswered;
  }
  return PeerSilence{silence, unanswered};
}

void SimulatedKernel::KeepAlive(int fd, const KeepAliveTimes& times) {
  const EnoughMemory enough;
  const auto socket = Socket(fd);
  if (!socket || socket->is_unix) return;
  const Duration after = std::chrono::seconds(times.idle_seconds + times.interval_seconds * times.probes);
  const std::weak_ptr<Endpoint> weak = socket;
  const auto ask = [this, weak, after](const auto& again) -> void {
    const auto s = weak.lock();
    if (!s || s->dead || s->closed) return;
    const bool gone = s->peer && s->peer->vanished && s->Unacknowledged() == 0 && world_.events.now() - s->last_heard >= after;
    if (gone) return s->TimeOut();
    world_.events.After(after, [again] { again(again); });
  };
  world_.events.After(after, [ask] { ask(ask); });
}

void SimulatedKernel::TakeEvents(int eventfd) {
  if (const auto counter = As<EventCounter>(eventfd)) counter->count = 0;
}

}  // namespace hud::simulation
