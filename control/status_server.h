// The status address: GET /status (JSON), GET /metrics (Prometheus), GET / (a page). HTTP is parsed by Boost.Beast; the
// sockets are served by an epoll loop in a thread of their own, so that no client of it can delay a beacon.
// Slow, silent and huge clients are bounded in number, bytes and time; a few descriptors are held in reserve, so that it
// answers when the process has no more.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "core/address.h"
#include "core/fd.h"

namespace hud {

class StatusServer {
 public:
  static constexpr size_t kMaxClients = 16;
  static constexpr size_t kReserveDescriptors = 4;
  static constexpr size_t kMaxRequestBytes = 8 * 1024;
  static constexpr Duration kRequestTime = std::chrono::seconds(5);    // from accept to the end of the request
  static constexpr Duration kResponseTime = std::chrono::seconds(15);  // from there to the last byte read

  struct Page {
    std::string path;          // "/status"
    std::string content_type;
    std::function<std::string()> body;  // called in the server's thread
    std::function<bool()> is_well = {};  // false: the page comes with 503
  };

  // Bound and listening; done before privileges are dropped.
  static absl::StatusOr<Fd> Bind(const SocketAddress& address);

  static absl::StatusOr<std::unique_ptr<StatusServer>> Start(std::vector<Fd> listeners, std::vector<Page> pages);
  ~StatusServer();  // ends its thread, and what was being answered

  // The whole answer to a request, for the request line and headers in `head`. Apart from sockets, for the tests.
  static std::string Respond(const std::vector<Page>& pages, std::string_view method, std::string_view target);

 private:
  struct Impl;
  explicit StatusServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
  std::thread thread_;
};

// The page at "/": self-contained, draws /status once a second.
extern const std::string_view kStatusPage;

}  // namespace hud
