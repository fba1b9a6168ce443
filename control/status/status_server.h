// The status address: GET /status (JSON), GET /metrics (Prometheus), GET / (a page). HTTP is parsed by Boost.Beast; the
// sockets are served by an epoll loop in a thread of their own, so that no client of it can delay a beacon.
// Slow, silent and huge clients are bounded in number, bytes and time; a few descriptors are held in reserve, so that it
// answers when the process has no more. When all places are taken, the source that has most of them makes room, so that
// a flood displaces itself and not a scrape from elsewhere.
// A web page elsewhere can point a name of its own at this address and read the answers in its visitor's browser (DNS
// rebinding): requests for a host name that is not ours are refused. Browsers have no way to a unix socket.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "core/admission/source.h"
#include "core/base/limits.h"
#include "core/net/address.h"
#include "core/os/fd.h"

namespace hud {

// What became of requests. Outlives the server; read by whoever shows it.
struct StatusServerCounters {
  std::atomic<uint64_t> answered{0};
  std::atomic<uint64_t> refused{0};        // no HTTP, no such page, or not GET
  std::atomic<uint64_t> foreign_host{0};
  std::atomic<uint64_t> displaced{0};      // clients whose place went to another one, before they had their answer
};

class StatusServer {
 public:
  static constexpr size_t kMaxClients = limits::kMaxStatusClients;
  static constexpr size_t kReserveDescriptors = limits::kStatusReserve;
  static constexpr size_t kMaxRequestBytes = 8 * 1024;
  static constexpr Duration kRequestTime = std::chrono::seconds(5);    // from accept to the end of the request
  // Since it was accepted, or had asked: not displaced before, for its request or its answer may be on the way.
  static constexpr Duration kGrace = std::chrono::milliseconds(5);
  static constexpr Duration kResponseTime = std::chrono::seconds(15);  // from there to the last byte read

  struct Page {
    std::string path;          // "/status"
    std::string content_type;
    std::function<std::string()> body;  // called in the server's thread
    std::function<bool()> is_well = {};  // false: the page comes with 503
  };

  struct Request {
    std::string_view method;
    std::string_view target;
    std::string_view host;             // empty: none
    std::string_view accept_encoding;  // empty: none
  };

  // Host names, lower case, without port, under which this address is known besides "localhost" and IP addresses.
  using HostNames = std::function<std::vector<std::string>()>;

  // Bound and listening; done before privileges are dropped.
  static absl::StatusOr<Fd> Bind(const SocketAddress& address);

  static absl::StatusOr<std::unique_ptr<StatusServer>> Start(std::vector<Fd> listeners, std::vector<Page> pages,
                                                             HostNames host_names, StatusServerCounters* counters);
  ~StatusServer();  // ends its thread, and what was being answered

  // The whole answer to a request. Apart from sockets, for the tests.
  static std::string Respond(const std::vector<Page>& pages, const HostNames& host_names, const Request& request,
                             StatusServerCounters* counters);
  // Is this value of a Host header an IP address, "localhost", or one of `names`, with or without a port?
  static bool IsOwnHost(std::string_view host, const std::vector<std::string>& names);

 private:
  struct Impl;
  explicit StatusServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
  std::thread thread_;
};

// The page at "/": self-contained, draws /status once a second.
extern const std::string_view kStatusPage;

}  // namespace hud
