#include "control/config/quick_start.h"

#include <algorithm>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/net/address_overlap.h"
#include "core/yaml/yaml_reader.h"

namespace hud {
namespace {

constexpr std::string_view kOptions[] = {"--help",   "--version", "--config", "--check",
                                         "--reload", "--listen",  "--node",   "--status"};

// Letters that other programs have for the same.
const std::map<std::string_view, std::string_view> kHabits = {
    {"-c", "--config FILE"}, {"-f", "--config FILE"}, {"-t", "--check FILE"},  {"-v", "--version"}, {"-V", "--version"},
    {"-l", "--listen ADDR"}, {"-n", "--node ADDR"},   {"-s", "--status ADDR"}, {"-?", "--help"},    {"-b", "--listen ADDR"}};

class QuickStartReader {
 public:
  absl::StatusOr<Configuration> Read(const std::vector<std::string>& listen, const std::vector<std::string>& nodes,
                                     const std::string& status) {
    if (listen.empty()) Complain("--listen is missing; write --listen '[::]:443', or --config FILE");
    if (nodes.empty()) Complain("--node is missing; write --node 10.0.0.11:8443, once for each node, or --config FILE");
    ReadListeners(listen);
    ReadNodes(nodes);
    if (!status.empty()) ReadStatus(status);
    if (!errors_.empty()) return absl::InvalidArgumentError(errors_);
    return std::move(configuration_);
  }

 private:
  template <typename... Parts>
  void Complain(const Parts&... parts) {
    absl::StrAppend(&errors_, errors_.empty() ? "" : "\n", parts...);
  }

  // An address with a port. Where the text holds several addresses the option is to be repeated.
  std::optional<SocketAddress> ReadAddress(const std::string& option, const std::string& text, const char* which_port) {
    absl::StatusOr<SocketAddress> address = SocketAddress::Parse(text);
    if (!address.ok()) {
      if (text.find(',') != std::string::npos && text.find('/') == std::string::npos) {
        Complain(option, ": '", text, "' holds several addresses; write ", option, " once for each: ", option, " ",
                 absl::StrReplaceAll(text, {{",", absl::StrCat(" ", option, " ")}, {" ", ""}}));
      } else {
        Complain(option, ": ", address.status().message());
      }
      return std::nullopt;
    }
    if (!address->IsUnix() && address->port() == 0) Complain(option, ": '", text, "': port 0 is none; write ", which_port);
    return *address;
  }

  void ReadListeners(const std::vector<std::string>& texts) {
    ListenerConfig& listener = configuration_.cluster.listeners.emplace_back();
    listener.name = "tls";
    listener.default_pool = "default";
    for (const std::string& text : texts) {
      const std::optional<SocketAddress> address = ReadAddress("--listen", text, "the port that clients connect to");
      if (!address) continue;
      if (address->IsUnix()) Complain("--listen: '", text, "' is a unix socket; a listener needs an IP address and a port");
      for (const SocketAddress& other : listener.bind) {
        if (!Overlap(*address, other)) continue;
        Complain("--listen: '", text, "' is taken by '", other.ToString(), "'; remove one ('[::]' serves IPv4, too)");
      }
      listener.bind.push_back(*address);
    }
  }

  void ReadNodes(const std::vector<std::string>& texts) {
    PoolConfig& pool = configuration_.cluster.pools.emplace_back();
    pool.name = "default";
    const std::vector<SocketAddress>& bound = configuration_.cluster.listeners.front().bind;
    for (const std::string& text : texts) {
      const std::optional<SocketAddress> address = ReadAddress("--node", text, "the port of the node's TLS server");
      if (!address) continue;
      const bool is_twice =
          std::any_of(pool.nodes.begin(), pool.nodes.end(), [&](const NodeConfig& n) { return n.address == *address; });
      if (is_twice) Complain("--node: '", text, "' is there twice; remove one");
      const bool is_loop =
          std::any_of(bound.begin(), bound.end(), [&](const SocketAddress& b) { return WouldReach(*address, b); });
      if (is_loop) Complain("--node: '", text, "' is where hudsucker listens: it would connect to itself");
      pool.nodes.push_back({.name = absl::StrCat("n", pool.nodes.size() + 1), .address = *address});
    }
    if (pool.nodes.size() > limits::kMaxNodes)
      Complain("--node: ", pool.nodes.size(), " nodes; at most ", limits::kMaxNodes);
  }

  void ReadStatus(const std::string& text) {
    const std::optional<SocketAddress> address = ReadAddress("--status", text, "the port to ask for /status at");
    if (!address) return;
    for (const SocketAddress& bound : configuration_.cluster.listeners.front().bind) {
      if (Overlap(*address, bound))
        Complain("--status: '", text, "' is taken by --listen '", bound.ToString(), "'; give it a port of its own");
    }
    configuration_.status = {*address};
  }

  std::string errors_;
  Configuration configuration_;
};

}  // namespace

absl::StatusOr<Configuration> QuickStart(const std::vector<std::string>& listen, const std::vector<std::string>& nodes,
                                         const std::string& status) {
  return QuickStartReader().Read(listen, nodes, status);
}

std::string ExplainArguments(const std::vector<std::string>& arguments) {
  bool takes_values = false;  // what is not an option here is the value of the one before
  for (const std::string& argument : arguments) {
    if (argument.empty() || argument[0] != '-' || argument == "-") {
      if (!takes_values) return absl::StrCat("'", argument, "' is no option; write --config ", argument, " to run with a file");
      continue;
    }
    const std::string name = argument.substr(0, argument.find('='));
    takes_values = name != "--help" && name != "--version";
    if (name == "-h" || std::find(std::begin(kOptions), std::end(kOptions), name) != std::end(kOptions)) continue;
    if (const auto habit = kHabits.find(name); habit != kHabits.end()) {
      return absl::StrCat("there is no option ", name, "; write ", std::string(habit->second));
    }
    // "-config" is meant as "--config".
    const std::string two_dashes = absl::StrCat("--", name.substr(std::min(name.find_first_not_of('-'), name.size())));
    const std::string near(Nearest(two_dashes, kOptions));
    return absl::StrCat("there is no option ", name, near.empty() ? "" : absl::StrCat("; did you mean ", near, "?"));
  }
  return "";
}

}  // namespace hud
