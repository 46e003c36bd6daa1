#!/bin/bash
# A task worker in bash with curl: it polls a queue and does whatever task comes by echoing its input.
#   bash examples/task-worker.sh [queue]      (MILLRACE_URL, default http://127.0.0.1:8001)
# Kill it in the middle of a task: after the lease the task goes to another worker, as the next attempt.
set -u
url=${MILLRACE_URL:-http://127.0.0.1:8001}
queue=${1:-payments}
work_s=${WORK_SECONDS:-0}

post() { # path, body
  curl --silent --show-error --max-time 90 --header 'content-type: application/json' --data "$2" "$url$1"
}

field() { # name of a string or number field of the JSON object on standard input
  sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"
}

beat() { # token, lease in milliseconds: three signs of life within a lease, until the work is over or this shell is gone
  while sleep "$(printf '%d.%03d' $(($2 / 3000)) $((($2 / 3) % 1000)))" && kill -0 $$ 2>/dev/null; do
    post "/v1/tasks/$1/heartbeat" '{}' >/dev/null
  done
}

echo "bash:$$ takes tasks from queue $queue at $url"
while true; do
  polled=$(post "/v1/queues/$queue/poll?waitMs=5000&worker=bash:$$" '{}') || { sleep 1; continue; }
  case $polled in *'"token"'*) ;; *) continue ;; esac
  token=$(printf '%s' "$polled" | field token)
  attempt=$(printf '%s' "$polled" | field attempt)
  beat "$token" "$(printf '%s' "$polled" | field leaseMs)" &
  beating=$!
  echo "$(printf '%s' "$polled" | field idempotencyKey): attempt $attempt"
  sleep "$work_s"
  # Sending it twice is harmless, so an answer that got lost is no problem.
  until done=$(post "/v1/tasks/$token/complete" "{\"output\":{\"by\":\"bash\",\"attempt\":$attempt}}"); do sleep 1; done
  kill "$beating" 2>/dev/null
  echo "$done"
done
