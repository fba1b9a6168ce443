# Sourced by tests/run, deploy/demo and perf/run: --help and mistakes are answered before anything is installed or built.
#
# answer_at_once SCRIPT PROGRAM "$@" returns when the options are right, and exits 0 for --help, 2 for a mistake. SCRIPT's first
# comment is its usage. PROGRAM, in Python, knows the options and checks them when --check comes first. Where there is no Python
# yet (a bare Debian: the packages bring it), the usage stands in: it is what --help prints, and a word that begins with "-" and
# is not in it is a mistake.
answer_at_once() {
  local script=$1 program=$2 option
  shift 2
  if command -v python3 >/dev/null; then
    for option in "$@"; do
      case "$option" in -h | --help) exec python3 "$program" "$@" ;; esac
    done
    python3 "$program" --check "$@" || exit $?
    return
  fi
  local usage
  usage=$(sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script")
  for option in "$@"; do
    case "$option" in -h | --help) printf '%s\n' "$usage"; exit 0 ;; esac
  done
  for option in "$@"; do
    case "$option" in
      -*) grep -qE -- "(^|[^[:alnum:]-])${option%%=*}([^[:alnum:]-]|\$)" <<<"$usage" && continue
          printf '%s\n\nthere is no option %s; the usage is above\n' "$usage" "$option" >&2
          exit 2 ;;
    esac
  done
}
