#!/bin/sh
# A job of the chaos run: sh job.sh DIRECTORY KIND [FAILURES]
#
# It writes each step into DIRECTORY/history (one line per write, O_APPEND, outside the spool), and looks in /proc
# whether a process of an earlier attempt of the same job still lives. Processes are known by id and start ticks.
# KIND says how it behaves; it fails while its attempt number is at most FAILURES.
directory=$1 kind=$2 failures=${3:-0}
history=$directory/history
alive=$directory/alive.$QUEUECTL_JOB_ID

read_stat() { # sets state, pgid and ticks of process $1; fails if it is gone
    read -r line 2>/dev/null <"/proc/$1/stat" || return 1
    set -- ${line##*) }
    state=$1 pgid=$3 ticks=${20}
}

say() { # event, more members
    printf '{"event": "%s", "id": "%s", "attempt": %s, "claim": "%s", "pid": %s%s}\n' \
        "$1" "$QUEUECTL_JOB_ID" "$QUEUECTL_ATTEMPT" "$QUEUECTL_CLAIM" "$me" "$2" >>"$history"
}

uptime() { # sets up: seconds since boot, with the time that the machine was suspended
    read -r up _ </proc/uptime
}

me=$$
if [ "$kind" = child ]; then # a process that a job left behind; it ticks for two seconds
    read_stat "$me"
    echo "$QUEUECTL_CLAIM $me $ticks" >>"$alive"
    say child
    for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; say tick; done
    exit 0
fi

if [ -e "$alive" ]; then
    while read -r claim pid born; do
        if [ "$claim" != "$QUEUECTL_CLAIM" ] && read_stat "$pid" && [ "$ticks" = "$born" ]; then
            case $state in Z|X) ;; *) say overlap ", \"with\": \"$claim\", \"other\": $pid, \"state\": \"$state\"" ;; esac
        fi
    done <"$alive"
fi
read_stat "$me"
echo "$QUEUECTL_CLAIM $me $ticks" >>"$alive"
uptime
say start ", \"pgid\": $pgid, \"ticks\": $ticks, \"uptime\": $up"

child="/bin/sh $0 $directory child"
code=0
[ "$QUEUECTL_ATTEMPT" -le "$failures" ] && code=1
case $kind in
    quick) ;;
    slow) sleep 0.4; say tick; sleep 0.4 ;;
    permanent) code=100 ;;
    later) [ "$code" = 1 ] && code=75 ;;
    hang) [ "$code" = 1 ] && sleep 60 ;;
    stubborn) trap '' TERM; [ "$code" = 1 ] && while :; do sleep 0.5; say tick; done ;;
    frozen) [ "$code" = 1 ] && kill -STOP "$me" ;;
    fork) $child & ;;
    setsid) setsid $child & sleep 0.02 ;;
    daemon) (setsid $child >/dev/null 2>&1 </dev/null &) ; sleep 0.02 ;;
    chatter) i=0; while [ $i -lt 300 ]; do echo "$i ......................................................"; i=$((i + 1)); done ;;
    flood) head -c 200000 /dev/zero ;;
    filler) [ "$code" = 1 ] && head -c 150000000 /dev/zero ;; # more than the disk holds
    suicide) [ "$code" = 1 ] && kill -KILL "$me" ;;
    killer) # its worker dies, if it is one of this run
        if [ "$code" = 1 ] && [ -e "$directory/worker.$PPID" ] && grep -aq "$QUEUECTL_SPOOL" "/proc/$PPID/cmdline"; then
            say kill ", \"worker\": $PPID"
            kill -KILL "$PPID"
            sleep 0.3
            say tick
        fi ;;
esac
uptime
say end ", \"code\": $code, \"uptime\": $up"
exit $code
