#include "control/config/quick_start.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "control/config/validate.h"
#include "core/yaml/yaml_reader.h"

namespace hud {
namespace {

constexpr std::string_view kOptions[] = {"--help",   "--version", "--config", "--check",
                                         "--reload", "--listen",  "--node",   "--status"};

// Letters that other programs have for the same.
const std::map<std::string_view, std::string_view> kHabits = {
    {"-c", "--config FILE"}, {"-f", "--config FILE"}, {"-t", "--check FILE"},  {"-v", "--version"}, {"-V", "--version"},
    {"-l", "--listen ADDR"}, {"-n", "--node ADDR"},   {"-s", "--status ADDR"}, {"-?", "--help"},    {"-b", "--listen ADDR"}};

// From the options to the same value that a file becomes; what holds between its parts is for Validate.
class QuickStartReader {
 public:
  absl::StatusOr<Configuration> Read(const std::vector<std::string>& listen, const std::vector<std::string>& nodes,
                                     const std::string& status) {
    if (listen.empty()) Complain("--listen is missing; write --listen '[::]:443', or --config FILE");
    if (nodes.empty()) Complain("--node is missing; write --node 10.0.0.11:8443, once for each node, or --config FILE");
    ListenerConfig& listener = configuration_.cluster.listeners.emplace_back();
    listener.name = "tls";
    listener.default_pool = "default";
    for (const std::string& text : listen) ReadAddress("--listen", text, "listeners[0].bind", &listener.bind);
    PoolConfig& pool = configuration_.cluster.pools.emplace_back();
    pool.name = "default";
    std::vector<SocketAddress> addresses;
    for (const std::string& text : nodes) ReadAddress("--node", text, "pools[0].nodes", &addresses);
    for (const SocketAddress& address : addresses) {
      pool.nodes.push_back({.name = absl::StrCat("n", pool.nodes.size() + 1), .address = address});
    }
    if (!status.empty()) ReadAddress("--status", status, "status.bind", &configuration_.status);
    if (errors_.empty()) {
      for (const ConfigurationFault& fault : Validate(configuration_)) Complain(configuration_.At(fault.key), ": ", fault.what);
    }
    if (!errors_.empty()) return absl::InvalidArgumentError(errors_);
    return std::move(configuration_);
  }

 private:
  template <typename... Parts>
  void Complain(const Parts&... parts) {
    absl::StrAppend(&errors_, errors_.empty() ? "" : "\n", parts...);
  }

  // One more of the addresses of `key`. Where the text holds several addresses the option is to be repeated.
  void ReadAddress(const std::string& option, const std::string& text, const std::string& key, std::vector<SocketAddress>* out) {
    configuration_.source.places.emplace(key, option);
    if (option == "--node") configuration_.source.places.emplace("pools", option);
    absl::StatusOr<SocketAddress> address = SocketAddress::Parse(text);
    if (address.ok()) {
      out->push_back(*address);
    } else if (text.find(',') != std::string::npos && text.find('/') == std::string::npos) {
      Complain(option, ": '", text, "' holds several addresses; write ", option, " once for each: ", option, " ",
               absl::StrReplaceAll(text, {{",", absl::StrCat(" ", option, " ")}, {" ", ""}}));
    } else {
      Complain(option, ": ", address.status().message());
    }
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
