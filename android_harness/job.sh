# One run on the device, which goes on while the connection is away. POSIX sh: mksh and toybox, busybox, dash.
#
#   sh job.sh start JOB LEASE TIMEOUT WORDS…     begin, detached, once: JOB is a folder, new or already begun; WORDS end
#                                                in `sh job.sh become JOB COMMAND…`, behind what leads to COMMAND's place
#   sh job.sh become JOB COMMAND…                note the number of this process, and become COMMAND
#   sh job.sh tick JOB BEAT OFFSET               say how it goes, and the events from byte OFFSET on
#   sh job.sh running JOB                        succeed if it has not ended
#   sh job.sh stop JOB                           end it, and wait until it has ended
#
# JOB gets run/, which COMMAND writes; said/stdout and said/stderr; state/pid and state/keeper, who runs and who watches;
# in the end state/exit, the exit code, and state/stopped, the reason where it did not end by itself: asked, lease (LEASE
# seconds without a tick of another BEAT) or timeout.

action=$1
job=$2

# By the shell alone, since starting a process takes a phone some 5 ms, and `tick` runs every second.
stat_of() { # state and birth, in ticks since the system began, of the process $1: with the number it names one for good
  line=
  { read -r line <"/proc/$1/stat"; } 2>/dev/null
  line=${line##*) }
  # shellcheck disable=SC2086
  set -- $line
  state=${1-}
  birth=${20-}
  [ -n "$birth" ]
}

named() { # "number birth" of this process, read by another: an emulator shows a process something else of itself
  echo "$$ $(stat_of $$ && echo "$birth")"
}

lives() { # whether the process that a file names, "number birth", still runs and is not a zombie
  number=
  { read -r number noted <"$job/state/$1"; } 2>/dev/null
  [ -n "$number" ] || return 1
  # Without a readable /proc the number has to do.
  stat_of "$number" || kill -0 "$number" 2>/dev/null || return 1
  [ "$birth" = "$noted" ] && [ "$state" != Z ]
}

end() { # TERM, five seconds for it to take leave, KILL
  lives pid || return 0
  kill -TERM "$number" 2>/dev/null
  for _ in 1 2 3 4 5; do
    sleep 1
    lives pid || return 0
  done
  kill -KILL "$number" 2>/dev/null
}

case $action in
start)
  [ -s "$job/state/keeper" ] && exit 0 # a command that came twice, for its answer was lost
  mkdir -p "$job/state" "$job/said" || exit 1
  shift 2
  detached=nohup
  command -v setsid >/dev/null && detached=setsid
  $detached sh "$0" keep "$job" "$@" </dev/null >/dev/null 2>&1 &
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -s "$job/state/pid" ] && exit 0
    sleep 0.1 2>/dev/null || sleep 1 # a run of a second is to be seen too
  done
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -s "$job/state/pid" ] && exit 0
    sleep 1
  done
  echo "the run did not begin" >&2
  exit 1
  ;;

keep) # LEASE TIMEOUT WORDS…
  trap '' HUP
  lease=$3
  timeout=$4
  shift 4
  cd "$job/state" || exit 1
  mkdir kept 2>/dev/null || exit 0 # two starts at once: the first keeps it
  [ -e stop ] && exit 0
  named >keeper.new && mv keeper.new keeper
  "$@" >../said/stdout 2>../said/stderr &
  child=$!
  seconds=0
  quiet=0
  last=
  while kill -0 $child 2>/dev/null; do
    sleep 1
    seconds=$((seconds + 1))
    quiet=$((quiet + 1))
    beat=
    read -r beat 2>/dev/null <beat
    if [ "$beat" != "$last" ]; then
      last=$beat
      quiet=0
    fi
    reason=
    [ -e stop ] && reason=asked
    [ $quiet -ge "$lease" ] && reason=lease
    [ $seconds -ge "$timeout" ] && reason=timeout
    if [ -n "$reason" ]; then
      echo $reason >stopped
      end
      break
    fi
  done
  wait $child
  echo $? >exit.new && mv exit.new exit
  ;;

become)
  shift 2
  named >"$job/state/pid.new" && mv "$job/state/pid.new" "$job/state/pid" && exec "$@"
  ;;

tick)
  [ -d "$job/state" ] && echo "$3" >"$job/state/beat"
  # Whether it runs is asked before what it left, so that what came last is not missed.
  echo "@@facts job@@"
  if lives pid || lives keeper; then echo "running: yes"; else echo "running: no"; fi
  [ -d "$job/state" ] || echo "stopped: removed"
  for name in exit stopped; do
    value=
    { read -r value <"$job/state/$name"; } 2>/dev/null
    [ -n "$value" ] && echo "$name: $value"
  done
  if lives pid; then
    echo "@@facts process@@"
    cat "/proc/$number/status" "/proc/$number/smaps_rollup" 2>/dev/null
  fi
  echo "@@facts events@@"
  tail -c "+$(($4 + 1))" "$job/run/events.jsonl" 2>/dev/null
  echo # ends a line that is being written
  echo "@@facts end@@"
  exit 0
  ;;

running)
  lives pid || lives keeper
  ;;

stop)
  mkdir -p "$job/state" || exit 1
  : >"$job/state/stop"
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    lives keeper || break
    sleep 1
  done
  end
  lives pid && exit 1
  exit 0
  ;;
esac
