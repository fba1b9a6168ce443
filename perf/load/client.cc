#include "perf/load/client.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "perf/load/client_thread.h"
#include "perf/load/interruption.h"
#include "perf/load/socket.h"

namespace hud::load {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr Duration kPatience = std::chrono::seconds(5);  // with a server that says nothing

// What all threads have done by an instant.
struct Reading {
  Instant at;
  uint64_t operations = 0;
  uint64_t bytes = 0;
  uint64_t failures = 0;
  uint64_t stalled = 0;
  uint64_t down_ns = 0;
  uint64_t connections_up = 0;
  CpuSample cpu;
};

class Client {
 public:
  Client(ClientOptions options, Interruption interruption)
      : options_(std::move(options)), interruption_(std::move(interruption)) {}
  ~Client() { Stop(); }

  absl::Status Start();
  absl::Status Divide(uint32_t first, uint32_t count, uint32_t threads, const HelloTemplate& hello);
  absl::StatusOr<ClientResult> Measure();

 private:
  // One after the other, as long as GoesOn().
  absl::Status WaitUntilUp();
  void WarmUp();
  void PassWindow();
  bool GoesOn() const { return signal_ == 0 && trouble_.empty(); }

  uint32_t connections() const { return options_.connections + (options_.one_exchanges ? 1 : 0); }
  Reading Count() const;
  absl::StatusOr<Reading> ReadWithCpu() const;
  absl::Status ThreadFailure() const;
  std::string NotUp(const Reading& reading, std::string_view why) const;
  std::string NewestFailure() const;
  std::string TroubleIn(const ClientResult& result, uint64_t stalled, uint64_t down_ns) const;
  void Enter(Phase phase);
  void Stop();

  const ClientOptions options_;
  const Interruption interruption_;
  int signal_ = 0;       // that came
  std::string trouble_;  // before the window
  std::vector<std::unique_ptr<ClientThread>> clients_;
  std::vector<std::thread> threads_;
};

absl::Status Client::Start() {
  absl::StatusOr<HelloTemplate> hello = HelloTemplate::Build(options_.hello);
  if (!hello.ok()) return hello.status();
  constexpr uint32_t kOtherDescriptors = 64;
  const size_t limit = RaiseDescriptorLimit();
  if (connections() + kOtherDescriptors > limit) {
    return absl::ResourceExhaustedError(absl::StrCat(connections(), " connections do not fit into the hard limit of ",
                                                     limit, " descriptors: raise it (ulimit -Hn) or use fewer"));
  }
  const uint32_t alone = options_.one_exchanges ? 1 : 0;  // in a thread of its own, so that it waits for no bulk
  absl::Status status = Divide(0, alone, alone, *hello);
  if (status.ok()) status = Divide(alone, options_.connections, static_cast<uint32_t>(options_.threads), *hello);
  if (!status.ok()) return status;
  for (auto& client : clients_) {
    threads_.emplace_back([client = client.get()] { client->Run(); });
  }
  return absl::OkStatus();
}

// `count` connections from `first` on, among `threads` at most.
absl::Status Client::Divide(uint32_t first, uint32_t count, uint32_t threads, const HelloTemplate& hello) {
  threads = std::min(threads, count);
  for (uint32_t i = 0; i < threads; ++i) {
    const auto begin = static_cast<uint32_t>(uint64_t{count} * i / threads);
    const auto end = static_cast<uint32_t>(uint64_t{count} * (i + 1) / threads);
    auto client = ClientThread::Create(options_, first + begin, end - begin, hello);
    if (!client.ok()) return client.status();
    clients_.push_back(*std::move(client));
  }
  return absl::OkStatus();
}

Reading Client::Count() const {
  Reading reading{.at = std::chrono::steady_clock::now()};
  for (const auto& client : clients_) {
    const ClientCounters& counters = client->counters();
    reading.operations += counters.operations.Get();
    reading.bytes += counters.bytes.Get();
    reading.failures += counters.failures.Get();
    reading.stalled += counters.stalled.Get();
    reading.down_ns += counters.down_ns.Get();
    reading.connections_up += counters.connections_up.Get();
  }
  return reading;
}

absl::StatusOr<Reading> Client::ReadWithCpu() const {
  Reading reading = Count();
  absl::StatusOr<CpuSample> cpu = SampleCpu(options_.pids);
  if (!cpu.ok()) return cpu.status();
  reading.cpu = *std::move(cpu);
  return reading;
}

absl::Status Client::ThreadFailure() const {
  for (const auto& client : clients_) {
    if (client->HasEnded() && !client->failure().ok()) return client->failure();
  }
  return absl::OkStatus();
}

std::string Client::NotUp(const Reading& reading, std::string_view why) const {
  return absl::StrCat("only ", reading.connections_up, " of ", connections(), " connections to ",
                      options_.target.ToString(),
                      " were answered by hud-load server: ", absl::string_view(why.data(), why.size()));
}

std::string Client::NewestFailure() const {
  for (const auto& client : clients_) {
    if (const int error = client->last_error(); error != 0) return std::strerror(error);
  }
  return "the other side ended connections, or answered what it should not";
}

absl::Status Client::WaitUntilUp() {
  uint64_t up = 0;
  Instant progress = std::chrono::steady_clock::now();
  while (signal_ == 0) {
    const Reading reading = Count();
    if (absl::Status status = ThreadFailure(); !status.ok()) return status;
    if (reading.connections_up == connections()) return absl::OkStatus();
    if (reading.failures > connections() / 100) return absl::UnavailableError(NotUp(reading, NewestFailure()));
    if (std::exchange(up, reading.connections_up) != reading.connections_up) progress = reading.at;
    if (reading.at - progress > kPatience) {
      trouble_ = NotUp(reading, absl::StrCat("the others had no answer for ", Seconds(kPatience).count(), " seconds"));
      return absl::OkStatus();
    }
    signal_ = interruption_.WaitFor(std::chrono::milliseconds(1));
  }
  return absl::OkStatus();
}

void Client::Enter(Phase phase) {
  for (auto& client : clients_) client->Enter(phase);
}

void Client::WarmUp() {
  Enter(Phase::kWarmingUp);
  if (options_.operation == Operation::kIdle) return;
  const Instant start = std::chrono::steady_clock::now();
  const Instant end = start + std::chrono::round<Duration>(Seconds(options_.warmup_seconds));
  // A slow pace is no silence.
  const Seconds patience = kPatience + Seconds(options_.rate > 0 ? 1 / options_.rate : 0);
  Reading moved = Count();
  while (signal_ == 0) {
    const Reading reading = Count();
    if (reading.at >= end) return;
    if (reading.operations != moved.operations || reading.bytes != moved.bytes) moved = reading;
    if (reading.at - moved.at > patience) {
      trouble_ = absl::StrCat(options_.target.ToString(), " answered ", connections(),
                              " connections, and then nothing for ", patience.count(), " seconds");
      return;
    }
    signal_ = interruption_.WaitFor(std::min<Duration>(end - reading.at, std::chrono::seconds(1)));
  }
}

void Client::PassWindow() {
  Enter(Phase::kMeasuring);
  if (options_.operation != Operation::kIdle) {
    signal_ = interruption_.WaitFor(std::chrono::round<Duration>(Seconds(options_.seconds)));
    return;
  }
  std::printf("{\"ready\":%u}\n", options_.connections);
  std::fflush(stdout);
  signal_ = interruption_.WaitForEndOf(STDIN_FILENO);
}

absl::StatusOr<ClientResult> Client::Measure() {
  if (absl::Status status = WaitUntilUp(); !status.ok()) return status;
  if (GoesOn()) WarmUp();
  absl::StatusOr<Reading> opening = ReadWithCpu();
  if (!opening.ok()) return opening.status();
  if (GoesOn()) PassWindow();
  absl::StatusOr<Reading> closing = ReadWithCpu();
  if (!closing.ok()) return closing.status();
  Stop();
  if (absl::Status status = ThreadFailure(); !status.ok()) return status;

  const Reading end = Count();  // with those that have stalled
  ClientResult result;
  result.seconds = Seconds(closing->at - opening->at).count();
  result.operations = closing->operations - opening->operations;
  result.bytes = closing->bytes - opening->bytes;
  result.failures = end.failures - opening->failures;
  result.trouble = trouble_.empty() ? TroubleIn(result, end.stalled, end.down_ns - opening->down_ns) : trouble_;
  if (signal_ != 0) {
    result.interrupted = absl::StrCat("ended by ", signal_ == SIGINT ? "SIGINT" : "SIGTERM", " when ", result.seconds,
                                      " seconds were measured");
  }
  for (const auto& client : clients_) {
    result.latencies.Merge(client->latencies());
    result.realtime = result.realtime || client->is_realtime();
  }
  result.used = Between(opening->cpu, closing->cpu);
  return result;
}

// Empty when the figures are good. Few failures can be much time, as who has failed pauses.
std::string Client::TroubleIn(const ClientResult& result, uint64_t stalled, uint64_t down_ns) const {
  constexpr double kFailedShare = 0.01;
  constexpr double kDownShare = 0.05;
  const uint64_t all = std::max<uint64_t>(options_.connections, result.operations + result.failures);
  const double time = 1e9 * connections() * result.seconds;
  const auto down = static_cast<double>(down_ns);
  if (static_cast<double>(result.failures) <= kFailedShare * static_cast<double>(all) && down <= kDownShare * time) {
    return "";
  }
  const std::string counted = absl::StrCat(result.failures, " failures beside ", result.operations, " operations");
  const std::string where = options_.target.ToString();
  if (stalled == result.failures) {
    return absl::StrCat(counted, ": ", stalled, " connections to ", where,
                        " awaited an answer for more than a second in the end");
  }
  return absl::StrCat("the server at ", where, " went away or failed while it was measured: ", counted,
                      ", and connections were down for ", std::lround(100 * std::min(down / time, 1.0)),
                      " % of the time; the newest failure: ", NewestFailure());
}

void Client::Stop() {
  Enter(Phase::kStopping);
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace

absl::StatusOr<ClientResult> RunClient(ClientOptions options) {
  absl::StatusOr<Interruption> interruption = Interruption::Expect();
  if (!interruption.ok()) return interruption.status();
  Client client(std::move(options), *std::move(interruption));
  if (absl::Status status = client.Start(); !status.ok()) return status;
  return client.Measure();
}

std::string Report(const ClientOptions& options, const ClientResult& result) {
  nlohmann::ordered_json report = {{"load", options.load},      {"connections", options.connections},
                                   {"seconds", result.seconds}, {"operations", result.operations},
                                   {"bytes", result.bytes},     {"failures", result.failures}};
  if (result.latencies.count() > 0) {
    const auto microseconds = [](uint64_t ns) { return static_cast<double>(ns) / 1000; };
    constexpr std::pair<const char*, double> kShares[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};
    for (const auto& [name, share] : kShares)
      report["latency_us"][name] = microseconds(result.latencies.ValueAt(share));
    report["latency_us"]["max"] = microseconds(result.latencies.largest());
  }
  if (options.one_exchanges) report["realtime"] = result.realtime;
  report["cpu_ns"] = nlohmann::json::object();
  for (size_t i = 0; i < options.pids.size(); ++i) {
    report["cpu_ns"][std::to_string(options.pids[i])] = result.used.process_ns[i];
  }
  report["machine_ns"] = {{"busy", result.used.machine_busy_ns},
                          {"idle", result.used.machine_idle_ns},
                          {"steal", result.used.machine_steal_ns}};
  report["own_cpu_ns"] = result.used.own_ns;
  return report.dump();
}

}  // namespace hud::load
