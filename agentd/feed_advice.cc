#include "agentd/feed_advice.h"

#include "absl/strings/str_cat.h"

namespace hud {

std::vector<std::string> FeedAdvice(const std::string& node, bool beside_tickets) {
  const std::string path = absl::StrCat("/run/hud-agentd/", node, ".syslog");
  const std::string nginx_id = beside_tickets ? "map $ssl_protocol $hud_session { TLSv1.2 $ssl_session_id; } log_format hud hud_session=$hud_session; "
                                              : "log_format hud hud_session=$ssl_session_id; ";
  return {
      absl::StrCat("exact feed, in this agent's file (group: that of the server's workers, else they cannot write): feeds: {node: ", node,
                   ", syslog: ", path, ", group: www-data}"),
      absl::StrCat("exact feed, in nginx within http: ", nginx_id, "access_log syslog:server=unix:", path, ",nohostname,tag=nginx hud;"),
      absl::StrCat("exact feed, in HAProxy: log ", path, " len 1024 local0 (global); log global, option dontlognull, log-format "
                   "hud_session=%[ssl_fc_session_id,hex] (frontend)"),
      absl::StrCat("exact feed, in Apache: LogFormat hud_session=%{SSL_SESSION_ID}x hud (line) CustomLog '|/usr/bin/logger --socket ", path,
                   " --tag apache' hud (line)"),
  };
}

}  // namespace hud
