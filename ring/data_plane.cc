#include "ring/data_plane.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <future>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "ring/io/kernel_ring.h"
#include "ring/io/kernel_sockets.h"
#include "ring/worker.h"

namespace hud {
namespace {

// The cores this process may use, in order.
std::vector<int> UsableCores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) cores.push_back(i);
  }
  return cores;
}

void PinTo(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  // Refused where the container's cores changed meanwhile: then the scheduler decides.
  (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

absl::Status TooManyOrders() { return absl::UnavailableError("the workers have too many orders to follow already; try again"); }

uint64_t RandomSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

void BecomeWorker(unsigned number, int core) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);  // signals are control's; a splice to a dead peer raises SIGPIPE
  if (core >= 0) PinTo(core);
  pthread_setname_np(pthread_self(), absl::StrCat("worker-", number).c_str());
}

std::vector<ListeningSocket> SocketsOf(unsigned worker, std::vector<ListenerSockets>& listeners) {
  std::vector<ListeningSocket> sockets;
  for (ListenerSockets& listener : listeners) {
    for (std::vector<Fd>& of_address : listener.sockets) sockets.push_back({listener.listener, std::move(of_address.at(worker))});
  }
  return sockets;
}

}  // namespace

absl::StatusOr<std::string> ProbeKernel() {
  absl::StatusOr<KernelFeatures> features = ProbeFeatures();
  if (!features.ok()) return features.status();
  return features->Describe();
}

struct DataPlane::Impl {
  struct Thread {
    WorkerCounters counters;
    SpscQueue<ConnectionRecord> records{limits::kConnectionRecords};
    WorkerOrders orders;
    Fd wake;  // control's end; the worker has a duplicate
    std::atomic<bool> ended{false};
    std::thread thread;
  };
  std::unique_ptr<Places> places;  // outlives the threads
  // By ListenerIndex; the workers own them, and close them when they are told to, or end.
  std::array<std::vector<int>, limits::kMaxListenerSlots> listening;
  bool draining = false;
  std::vector<std::unique_ptr<Thread>> threads;

  void NoteListening(const ListenerSockets& listener) {
    for (const std::vector<Fd>& of_address : listener.sockets) {
      for (const Fd& fd : of_address) listening[Raw(listener.listener)].push_back(fd.get());
    }
  }

  // All that workers share, and their threads' parts: all there before the first worker may wake another.
  absl::Status Prepare(const DataPlaneOptions& options, const std::vector<ListenerSockets>& listeners) {
    size_t accepts = 0;
    for (const ListenerSockets& listener : listeners) {
      NoteListening(listener);
      accepts += listening[Raw(listener.listener)].size();
    }
    places = std::make_unique<Places>(PlaceLimits{.connections = options.max_connections,
                                                  .per_source = options.max_connections_per_source,
                                                  .hello_bytes = options.hello_budget_bytes,
                                                  .workers = options.workers,
                                                  .accepts = std::max<size_t>(1, accepts)},
                                      SipKey{RandomSeed(), RandomSeed()});
    for (unsigned i = 0; i < options.workers; ++i) {
      Thread& t = *threads.emplace_back(std::make_unique<Thread>());
      t.wake = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
      if (!t.wake) return absl::ResourceExhaustedError(absl::StrCat("cannot make an eventfd: ", std::strerror(errno)));
      places->SetWake(i, t.wake.get());
    }
    return absl::OkStatus();
  }

  // The value comes once the worker accepts, or cannot.
  absl::StatusOr<std::future<absl::Status>> StartWorker(const PassThrough::Options& worker, bool pinned, const KernelFeatures& features,
                                                        const RoutingState& routing, std::vector<ListeningSocket> sockets) {
    Thread& t = *threads[worker.worker];
    Fd wake(dup(t.wake.get()));
    if (!wake) return absl::ResourceExhaustedError(absl::StrCat("cannot duplicate an eventfd: ", std::strerror(errno)));
    std::promise<absl::Status> ready;
    std::future<absl::Status> started = ready.get_future();
    const std::vector<int> cores = UsableCores();
    const int core = pinned && cores.size() > 1 ? cores[worker.worker % cores.size()] : -1;
    t.thread = std::thread([&t, worker, routing, &places = *places, core, features, ready = std::move(ready), sockets = std::move(sockets),
                            wake = std::move(wake)]() mutable {
      BecomeWorker(worker.worker, core);
      absl::StatusOr<std::unique_ptr<Ring>> ring = CreateKernelRing({.features = features});
      if (!ring.ok()) {
        t.ended = true;
        return ready.set_value(ring.status());
      }
      // The worker lives on this thread from its first to its last breath, as does its ring.
      KernelSockets calls;
      Worker w(worker, routing, places, std::move(*ring), calls, std::move(sockets), std::move(wake), t.orders, t.counters, t.records);
      ready.set_value(absl::OkStatus());
      w.Run();
      t.ended = true;
    });
    return started;
  }

  void Signal() {
    for (auto& t : threads) {
      const uint64_t one = 1;
      (void)!write(t->wake.get(), &one, sizeof one);
    }
  }
};

DataPlane::DataPlane(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<DataPlane>> DataPlane::Start(const DataPlaneOptions& options, const RoutingState& routing,
                                                            std::vector<ListenerSockets> listeners) {
  HUD_CHECK(options.workers > 0 && options.workers <= limits::kMaxWorkers);
  const absl::StatusOr<KernelFeatures> features = ProbeFeatures();
  if (!features.ok()) return features.status();
  auto plane = std::unique_ptr<DataPlane>(new DataPlane(std::make_unique<Impl>()));  // its destructor stops those that did start
  Impl& impl = *plane->impl_;
  if (absl::Status status = impl.Prepare(options, listeners); !status.ok()) return status;
  std::vector<std::future<absl::Status>> started;
  for (unsigned i = 0; i < options.workers; ++i) {
    const PassThrough::Options worker{.worker = i,
                                      .relay = {.mode = options.relay_mode,
                                                .pipe_bytes = options.pipe_bytes,
                                                .pipes = options.pipes_per_worker,
                                                .zero_copy_send = features->zero_copy_send},
                                      .log_connections = options.log_connections,
                                      .digest_key = options.digest_key,
                                      .random_seed = RandomSeed(),
                                      .check_invariants = kCheckInvariants};
    absl::StatusOr<std::future<absl::Status>> ready = impl.StartWorker(worker, options.pin_workers, *features, routing, SocketsOf(i, listeners));
    if (!ready.ok()) return ready.status();
    started.push_back(*std::move(ready));
  }
  absl::Status all;
  for (auto& result : started) all.Update(result.get());
  if (!all.ok()) return all;
  return plane;
}

DataPlane::~DataPlane() {
  for (auto& t : impl_->threads) t->orders.Stop();
  impl_->Signal();
  Join();
}

unsigned DataPlane::workers() const { return static_cast<unsigned>(impl_->threads.size()); }
const WorkerCounters& DataPlane::counters(unsigned worker) const { return impl_->threads[worker]->counters; }
SourceKey DataPlane::LastToMakeRoom() const { return impl_->places->LastToMakeRoom(); }
SpscQueue<ConnectionRecord>& DataPlane::records(unsigned worker) { return impl_->threads[worker]->records; }

void DataPlane::ForgetPool(PoolIndex pool) {
  for (auto& t : impl_->threads) t->counters.pools[Raw(pool)].Reset();
}

void DataPlane::ForgetListener(ListenerIndex listener) {
  for (auto& t : impl_->threads) t->counters.listeners[Raw(listener)].Reset();
}

bool DataPlane::HasRoomFor(size_t orders) const {
  return std::ranges::all_of(impl_->threads, [&](const auto& t) { return t->orders.room() >= orders; });
}

absl::Status DataPlane::Tell(const std::function<WorkerOrder(size_t worker)>& order) {
  if (!HasRoomFor(1)) return TooManyOrders();
  for (size_t i = 0; i < impl_->threads.size(); ++i) HUD_CHECK(impl_->threads[i]->orders.Push(order(i)));
  impl_->Signal();
  return absl::OkStatus();
}

void DataPlane::Drain(Duration deadline) {
  const Instant until = std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now()) + deadline;
  impl_->draining = true;
  for (auto& t : impl_->threads) t->orders.Drain(until);
  impl_->Signal();
}

absl::Status DataPlane::AddListener(ListenerSockets listener) {
  if (impl_->draining) return absl::FailedPreconditionError("the workers are draining: no listener can be added");
  if (!HasRoomFor(listener.sockets.size())) return TooManyOrders();
  impl_->NoteListening(listener);
  for (std::vector<Fd>& of_address : listener.sockets) {
    HUD_CHECK(of_address.size() == workers());
    HUD_CHECK(Tell([&](size_t i) { return AddListenerOrder{{listener.listener, std::move(of_address[i])}}; }).ok());
    impl_->places->AddAccepts(static_cast<ptrdiff_t>(workers()));
  }
  return absl::OkStatus();
}

void DataPlane::TurnNewcomersAway(ListenerIndex listener) {
  if (impl_->draining) return;  // the sockets may be closed
  for (const int fd : impl_->listening[Raw(listener)]) DropFirstPackets(fd);
}

absl::Status DataPlane::RemoveListener(ListenerIndex listener) {
  absl::Status told = Tell([listener](size_t) { return RemoveListenerOrder{listener}; });
  if (!told.ok()) return told;
  std::vector<int>& listening = impl_->listening[Raw(listener)];
  impl_->places->AddAccepts(-static_cast<ptrdiff_t>(std::exchange(listening, {}).size()));
  return told;
}

absl::Status DataPlane::PauseListener(ListenerIndex listener, bool paused) {
  return Tell([=](size_t) { return PauseListenerOrder{listener, paused}; });
}

void DataPlane::Wake() { impl_->Signal(); }

bool DataPlane::Drained() const {
  for (auto& t : impl_->threads) {
    if (!t->ended.load()) return false;
  }
  return true;
}

void DataPlane::Join() {
  for (auto& t : impl_->threads) {
    if (t->thread.joinable()) t->thread.join();
  }
}

}  // namespace hud
