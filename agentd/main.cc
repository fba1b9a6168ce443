// hud-agentd: says for the TLS servers on this machine that they are alive, how they feel, and which tokens are theirs.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agentd/agent.h"
#include "agentd/agent_key.h"
#include "agentd/configuration.h"
#include "core/os/fd.h"
#include "core/os/log.h"
#include "core/os/log_writer.h"
#include "core/os/privileges.h"
#include "core/os/signals.h"
#include "core/yaml/yaml_reader.h"

namespace {

constexpr int kBadConfiguration = 1;
constexpr int kUsage = 2;

constexpr std::string_view kFooter = R"(Signals:
  SIGTERM, SIGINT   end without a word to the proxies: the nodes serve on, and an agent that is started again within half of
                    the proxies' beacons.dead_after is not missed (SIGUSR1 does the same)
  SIGUSR2           take the nodes out of service: no new connections, those there are may go on; then end
  SIGHUP            look at the servers, the ticket key files and the beacon keys again, not at the YAML file
  others that would end the process (SIGQUIT, SIGALRM, …) are ignored, with a word in the log

Ends with 0 when all is well, 1 when something is wrong with the configuration or the machine, 2 with the options.)";

int Complain(const absl::Status& status) {
  for (absl::string_view line : absl::StrSplit(status.message(), '\n', absl::SkipEmpty())) {
    std::cerr << absl::StrCat("hud-agentd: ", line, "\n");
  }
  return kBadConfiguration;
}

struct KeygenOptions {
  std::string name;
  std::vector<std::string> pools, addresses;
  uint16_t weight = 0;
  std::string tickets;
};

// What a key allows is what somebody who steals it can do, so it is never "anything" unless that is written.
int Keygen(const KeygenOptions& options) {
  const std::string& name = options.name;
  if (options.pools.empty() || options.addresses.empty()) {
    std::cerr << "hud-agentd: say what the node may do: which pools it may join, and where its TLS server is, like\n"
              << "  hud-agentd keygen " << name << " --pools web --addresses 10.0.0.11\n"
              << "Several are written with commas; an address is a host, a range like 10.0.0.0/24, HOST:PORT or unix:PATH\n";
    return kUsage;
  }
  // "*" is how the keys file says "any".
  const auto unless_any = [](const std::vector<std::string>& list) {
    return list == std::vector<std::string>{"*"} ? std::vector<std::string>() : list;
  };
  const absl::StatusOr<std::string> line = hud::MakeAgentKey(".", name, unless_any(options.pools),
                                                             unless_any(options.addresses), options.weight, options.tickets);
  if (!line.ok()) return Complain(line.status());
  if (const auto keys = hud::ParseBeaconKeys(*line, "keygen"); keys.ok()) {
    for (const std::string& wide : hud::WideBeaconKeys(*keys)) std::cerr << "hud-agentd: warning: " << wide << "\n";
  }
  std::cerr << "wrote " << name << ".key: copy it to the node, readable by the agent alone.\n"
            << "Add this line to the proxy's keys file (beacons.keys), and reload the proxy:\n";
  std::cout << *line << (line->ends_with('\n') ? "" : "\n") << std::flush;
  if (std::cout) return 0;
  std::cerr << "hud-agentd: that line could not be written; remove " << name << ".key and run keygen again\n";
  return kBadConfiguration;
}

absl::Status At(const std::string& place, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(place, place.empty() ? "" : ": ", status.message()));
}

// All that can be found out without touching a socket or a server: what is wrong with the files that it names.
std::vector<absl::Status> CheckFiles(const hud::AgentConfig& config, std::vector<std::string>* warnings) {
  std::vector<absl::Status> found;
  for (const hud::AgentNodeConfig& node : config.nodes) {
    found.push_back(At(node.key_at, hud::ReadAgentKey(node.key_path, node.name).status()));
  }
  for (const hud::ProbeConfig& probe : config.probes) found.push_back(hud::ProbeClient::Make(probe, -1).status());
  for (const hud::TicketKeyFileConfig& file : config.ticket_key_files) {
    found.push_back(At(file.at, hud::ReadTicketKeyNames(file.path, file.format).status()));
  }
  for (const hud::FeedsConfig& feeds : config.feeds) {
    for (const std::string& path : {feeds.syslog, feeds.tokens}) {
      if (path.empty()) continue;
      const absl::Status status = At(feeds.at, hud::DatagramSocket::Check(path, feeds.group));
      if (absl::IsNotFound(status)) {
        warnings->emplace_back(status.message());
      } else {
        found.push_back(status);
      }
    }
  }
  std::erase_if(found, [](const absl::Status& status) { return status.ok(); });
  return found;
}

// What it can run without.
void CheckStateFolder(hud::AgentConfig* config) {
  const std::string& folder = config->state_dir;
  if (folder.empty() || ::faccessat(AT_FDCWD, (folder + "/").c_str(), W_OK | X_OK, AT_EACCESS) == 0) return;
  config->warnings.push_back(absl::StrCat(config->state_dir_at, ": state_dir: cannot write to ", folder, ": ", std::strerror(errno),
                                          "; what is learned is lost with a restart. Make the folder, and give it to ",
                                          hud::CurrentUserName()));
}

// Before anything is opened, for nothing that the agent does needs more than its user's rights, and before there are threads.
absl::Status GiveUpRights(const std::string& path, hud::AgentConfig* config) {
  if (!config->user.empty()) {
    if (absl::Status status = hud::BecomeUser(config->user); !status.ok()) return At(config->user_at, status);
  }
  if (::geteuid() == 0) {
    config->warnings.push_back(absl::StrCat(path, ": user: ", hud::kStaysRoot));
    std::vector<std::string> groups;
    for (const hud::FeedsConfig& feeds : config->feeds) {
      if (!feeds.group.empty()) groups.push_back(feeds.group);
    }
    hud::JoinGroups(groups);
  }
  hud::AllowDumps(!config->sandbox);
  return hud::GiveUpRights();
}

int Check(const std::string& path) {
  absl::StatusOr<hud::AgentConfig> config = hud::ReadAgentConfig(path);
  if (!config.ok()) {
    std::cerr << config.status().message() << "\n";
    return kBadConfiguration;
  }
  if (!config->user.empty()) {
    if (const absl::Status became = hud::BecomeUser(config->user); !became.ok()) return Complain(At(config->user_at, became));
  }
  const std::vector<absl::Status> found = CheckFiles(*config, &config->warnings);
  CheckStateFolder(&*config);
  for (const absl::Status& status : found) std::cerr << status.message() << "\n";
  for (const std::string& warning : config->warnings) std::cerr << "warning: " << warning << "\n";
  if (!found.empty()) return kBadConfiguration;
  std::cout << "ok\n";
  return 0;
}

// What the parser of options would say badly: an option that there is not, or a file without its option.
std::string ExplainArguments(const std::vector<std::string>& arguments) {
  constexpr std::string_view kOptions[] = {"--help", "--version", "--config", "--check", "--keep"};
  static const std::map<std::string_view, std::string_view> kHabits = {
      {"-c", "--config FILE"}, {"-f", "--config FILE"}, {"-t", "--check FILE"}, {"-v", "--version"}, {"-V", "--version"}, {"-?", "--help"},
      {"--reload", "kill -HUP PID: it looks at keys and servers again; a changed configuration needs a restart"}};
  if (arguments.empty() || arguments.front() == "keygen") return "";
  const std::string& first = arguments.front();
  if (first.empty() || first[0] != '-') {
    return absl::StrCat("'", first, "' is no option; write --config ", first, " to run with a file, or keygen to make a key");
  }
  const std::string name = first.substr(0, first.find('='));
  if (name == "-h" || std::find(std::begin(kOptions), std::end(kOptions), name) != std::end(kOptions)) return "";
  if (const auto habit = kHabits.find(name); habit != kHabits.end()) {
    return absl::StrCat("there is no option ", name, "; write ", std::string(habit->second));
  }
  const std::string near(hud::Nearest(absl::StrCat("--", name.substr(std::min(name.find_first_not_of('-'), name.size()))), kOptions));
  return absl::StrCat("there is no option ", name, near.empty() ? "" : absl::StrCat("; did you mean ", near, "?"));
}

int Run(const std::string& path) {
  hud::HoldSignals();
  absl::StatusOr<hud::AgentConfig> config = hud::ReadAgentConfig(path);
  if (!config.ok()) return Complain(config.status());
  if (const absl::Status gave = GiveUpRights(path, &*config); !gave.ok()) return Complain(gave);
  if (const char* state = std::getenv("STATE_DIRECTORY"); config->state_dir.empty() && state != nullptr) {
    config->state_dir = std::string(absl::string_view(state).substr(0, absl::string_view(state).find(':')));  // systemd may name several
  }
  absl::StatusOr<hud::Fd> signals = hud::TakeSignals();  // before there are threads
  if (!signals.ok()) return Complain(signals.status());
  auto writer = std::make_unique<hud::LogWriter>(hud::Fd(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)));
  const hud::Log log(writer.get(), config->log.format, config->log.level);
  log.Info("starting", {{"version", std::string_view(HUD_VERSION)}, {"pid", int64_t{::getpid()}}});
  for (const std::string& warning : config->warnings) log.Warning(warning);
  absl::StatusOr<std::unique_ptr<hud::Agent>> agent = hud::Agent::Make(*std::move(config), *std::move(signals), &log);
  if (!agent.ok()) {
    writer.reset();  // what is logged so far comes first
    return Complain(agent.status());
  }
  (*agent)->Run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  hud::OccupyStandardDescriptors();
  CLI::App app("The agent of the Hudsucker proxy: runs beside TLS servers and tells proxies about them.");
  app.footer(std::string(kFooter));
  std::string config_path, check_path;
  bool keep = false;
  KeygenOptions key;
  auto* config = app.add_option("--config", config_path, "Run with this configuration")->type_name("FILE");
  auto* check =
      app.add_option("--check", check_path, "Check a configuration and the files that it names, say everything that is wrong, and end")->type_name("FILE");
  app.set_version_flag("--version", std::string("hud-agentd ") + HUD_VERSION);
  app.add_flag("--keep", keep, "what SIGTERM does anyway: leave the nodes in service")->group("");
  config->excludes(check);
  auto* keygen = app.add_subcommand("keygen", "Make a node's key: writes ./NAME.key and prints the proxy's line");
  keygen->add_option("name", key.name, "The node")->required()->type_name("NAME");
  keygen->add_option("--pools,--pool", key.pools, "Pools the node may join")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("POOL,…");
  keygen
      ->add_option("--addresses,--address", key.addresses,
                   "Addresses its TLS server may have: hosts, ranges like 10.0.0.0/24, HOST:PORT, unix:PATH")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("ADDRESS,…");
  keygen->add_option("--weight", key.weight, "The highest weight it may announce; 100 unless given")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  keygen->add_option("--tickets", key.tickets, "The group of nodes whose servers share their ticket keys")
      ->type_name("GROUP");
  if (const std::string wrong = ExplainArguments({argv + 1, argv + argc}); !wrong.empty()) {
    std::cerr << "hud-agentd: " << wrong << "; see hud-agentd --help\n";
    return kUsage;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::cerr << "hud-agentd: " << error.what() << "; see hud-agentd --help\n";
    return kUsage;
  }

  if (keygen->parsed()) return Keygen(key);
  if (!check_path.empty()) return Check(check_path);
  if (!config_path.empty()) return Run(config_path);
  std::cerr << "hud-agentd: nothing to do; give --config FILE, --check FILE, or 'keygen NAME --pools POOL --addresses ADDRESS' (--help says more)\n";
  return kUsage;
}
