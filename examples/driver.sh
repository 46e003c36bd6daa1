#!/bin/sh
# The same driver in a POSIX shell: two calls with curl per step are the whole contract.
#   sh examples/driver.sh [id]          (MILLRACE_URL, default http://127.0.0.1:8001)
set -eu
url=${MILLRACE_URL:-http://127.0.0.1:8001}
id=${1:-permit-$(date +%s)}

post() { # path, body
  curl --silent --show-error --fail-with-body --header 'content-type: application/json' --data "$2" "$url$1"
}

field() { # name of a string field of the JSON object on standard input
  sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}

step() { # name, output
  begun=$(post "/v1/workflows/$id/steps/$1/begin" '{}')
  case $(printf '%s' "$begun" | field outcome) in
    execute)
      token=$(printf '%s' "$begun" | field token)
      post "/v1/workflows/$id/steps/$1/complete" "{\"token\":\"$token\",\"output\":$2}" >/dev/null
      echo "$1: done"
      ;;
    completed) echo "$1: done before" ;;
    *)
      echo "$1: $begun" >&2
      exit 1
      ;;
  esac
}

post /v1/workflows "{\"type\":\"permit\",\"id\":\"$id\",\"driver\":\"external\",\"steps\":[\"check\",\"decide\"],\"input\":{\"case\":1}}" >/dev/null
step check '{"complete":true}'
step decide '{"granted":true}'
post "/v1/workflows/$id/complete" '{"output":{"granted":true}}' >/dev/null
echo "$id: completed"
