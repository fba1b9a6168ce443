#include "perf/load/client.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "perf/load/client_thread.h"
#include "perf/load/socket.h"

namespace hud::load {
namespace {

using Seconds = std::chrono::duration<double>;

// What all threads have done by an instant.
struct Reading {
  Instant at;
  uint64_t operations = 0;
  uint64_t bytes = 0;
  uint64_t failures = 0;
  uint64_t connections_up = 0;
  CpuSample cpu;
};

class Client {
 public:
  explicit Client(ClientOptions options) : options_(std::move(options)) {}
  ~Client() { Stop(); }

  absl::Status Start();
  absl::Status Divide(uint32_t first, uint32_t count, uint32_t threads, const HelloTemplate& hello);
  absl::Status WaitUntilUp();
  absl::StatusOr<ClientResult> Measure();

 private:
  uint32_t connections() const { return options_.connections + (options_.one_exchanges ? 1 : 0); }
  Reading Count() const;
  absl::StatusOr<Reading> ReadWithCpu() const;
  absl::Status ThreadFailure() const;
  absl::Status NotUp(const Reading& reading, std::string_view why) const;
  void Enter(Phase phase);
  void HoldIdle();
  void Stop();

  const ClientOptions options_;
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

absl::Status Client::NotUp(const Reading& reading, std::string_view why) const {
  std::string text = absl::StrCat("only ", reading.connections_up, " of ", connections(), " connections to ",
                                  options_.target.ToString(),
                                  " were answered by hud-load server: ", absl::string_view(why.data(), why.size()));
  return absl::UnavailableError(text);
}

absl::Status Client::WaitUntilUp() {
  constexpr auto kPatience = std::chrono::seconds(30);
  const Instant start = std::chrono::steady_clock::now();
  for (;;) {
    const Reading reading = Count();
    if (absl::Status status = ThreadFailure(); !status.ok()) return status;
    if (reading.connections_up == connections()) return absl::OkStatus();
    if (reading.failures > connections() / 100) {
      for (const auto& client : clients_) {
        if (const int error = client->last_error(); error != 0) return NotUp(reading, std::strerror(error));
      }
      return NotUp(reading, "the other side ended connections, or answered what it should not");
    }
    if (reading.at - start > kPatience) return NotUp(reading, "the others got no answer in 30 seconds");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Client::Enter(Phase phase) {
  for (auto& client : clients_) client->Enter(phase);
}

void Client::HoldIdle() {
  std::printf("{\"ready\":%u}\n", options_.connections);
  std::fflush(stdout);
  char byte[64];
  while (::read(STDIN_FILENO, byte, sizeof(byte)) > 0) {
  }
}

absl::StatusOr<ClientResult> Client::Measure() {
  const bool idle = options_.operation == Operation::kIdle;
  Enter(Phase::kWarmingUp);
  if (!idle) std::this_thread::sleep_for(Seconds(options_.warmup_seconds));
  absl::StatusOr<Reading> opening = ReadWithCpu();
  if (!opening.ok()) return opening.status();
  Enter(Phase::kMeasuring);
  if (idle) {
    HoldIdle();
  } else {
    std::this_thread::sleep_for(Seconds(options_.seconds));
  }
  absl::StatusOr<Reading> closing = ReadWithCpu();
  if (!closing.ok()) return closing.status();
  Stop();
  if (absl::Status status = ThreadFailure(); !status.ok()) return status;

  ClientResult result;
  result.seconds = Seconds(closing->at - opening->at).count();
  result.operations = closing->operations - opening->operations;
  result.bytes = closing->bytes - opening->bytes;
  result.failures = Count().failures - opening->failures;  // with those that have stalled
  for (const auto& client : clients_) {
    result.latencies.Merge(client->latencies());
    result.realtime = result.realtime || client->is_realtime();
  }
  result.used = Between(opening->cpu, closing->cpu);
  return result;
}

void Client::Stop() {
  Enter(Phase::kStopping);
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace

absl::StatusOr<ClientResult> RunClient(ClientOptions options) {
  Client client(std::move(options));
  if (absl::Status status = client.Start(); !status.ok()) return status;
  if (absl::Status status = client.WaitUntilUp(); !status.ok()) return status;
  return client.Measure();
}

bool HasTooManyFailures(const ClientOptions& options, const ClientResult& result) {
  return result.failures * 100 > std::max<uint64_t>(options.connections, result.operations + result.failures);
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
