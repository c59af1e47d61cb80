#!/bin/sh
# Prints what a device tells of itself, in sections that android_harness/facts.py reads.
#
#   sh facts.sh facts        everything, once
#   sh facts.sh conditions   what changes: battery, heat, frequencies, paging, free memory
#
# For the sh of Android 8 to 15 (mksh, toybox), busybox and dash. A source that is missing or forbidden leaves its
# section empty. Files of one line are read by the shell itself: a phone has a hundred of them, and starting a process
# takes it some 5 ms. `dumpsys meminfo` is left out because it asks every process and takes seconds; what it tells of
# the whole system is in /proc/meminfo too.

LC_ALL=C
export LC_ALL

# The empty line before it ends whatever line a source left open.
section() {
    echo
    echo "@@facts $1@@"
}

has() {
    command -v "$1" >/dev/null 2>&1
}

file() {
    section "$1"
    cat "$2" 2>/dev/null
}

# Prints NAME=, then the first line of FILE.
value() {
    line=
    { IFS= read -r line <"$2"; } 2>/dev/null
    [ -n "$line" ] && echo "$1=$line"
}

policy() {
    for key in related_cpus scaling_governor scaling_min_freq scaling_max_freq scaling_cur_freq cpuinfo_max_freq; do
        value "$1/$key" "$2/$key"
    done
}

cpufreq() {
    section cpufreq
    cpu=/sys/devices/system/cpu
    found=
    for folder in "$cpu"/cpufreq/policy[0-9]*; do
        [ -d "$folder" ] && found=yes && policy "${folder##*/}" "$folder"
    done
    [ -n "$found" ] && return
    for folder in "$cpu"/cpu[0-9]*/cpufreq; do
        core=${folder%/cpufreq}
        policy "${core##*/}" "$folder"
    done
}

zones() {
    section zones
    for zone in /sys/class/thermal/thermal_zone[0-9]*; do
        name=
        { IFS= read -r name <"$zone/type"; } 2>/dev/null
        value "${name:-${zone##*/}}" "$zone/temp"
    done
}

# The files of the zones say the same as the thermal service where that has answers, and are many.
heat() {
    service=
    has dumpsys && service=$(dumpsys -t 3 thermalservice 2>/dev/null)
    section thermalservice
    echo "$service"
    case $service in
        *'Current temperatures from HAL:'*Temperature*) ;;
        *) zones ;;
    esac
}

raspberry() {
    section throttled
    if has vcgencmd; then
        vcgencmd get_throttled 2>/dev/null
        section measure_temp
        vcgencmd measure_temp 2>/dev/null
    fi
    section throttled_file
    cat /sys/devices/platform/soc/*/get_throttled 2>/dev/null
    section under_voltage
    for folder in /sys/class/hwmon/hwmon[0-9]*; do
        [ "$(value name "$folder/name")" = name=rpi_volt ] && value in0_lcrit_alarm "$folder/in0_lcrit_alarm"
    done
}

conditions() {
    file meminfo /proc/meminfo
    section vmstat
    grep -E '^pswp(in|out) ' /proc/vmstat 2>/dev/null
    cpufreq
    section battery
    has dumpsys && dumpsys -t 3 battery 2>/dev/null
    heat
    raspberry
}

# Only what is asked for: the others hold serial numbers.
properties() {
    section getprop
    has getprop && getprop 2>/dev/null | grep -E \
        -e '^\[ro\.product\.(model|manufacturer|cpu\.abilist|cpu\.abi)\]:' \
        -e '^\[ro\.build\.(display\.id|version\.(release|sdk))\]:' \
        -e '^\[ro\.(soc\.(manufacturer|model)|board\.platform|hardware)\]:'
}

identity() {
    section uname
    uname -s -r -m 2>/dev/null
    section bits
    getconf LONG_BIT 2>/dev/null
    properties
    file os_release /etc/os-release
    file model /proc/device-tree/model
    file compatible /proc/device-tree/compatible
    section cpuinfo
    grep -v -i '^serial' /proc/cpuinfo 2>/dev/null
    file present /sys/devices/system/cpu/present
    file swaps /proc/swaps
    file zram_disksize /sys/block/zram0/disksize
    file zram_mm_stat /sys/block/zram0/mm_stat
    section df
    df -k /data/local/tmp /tmp 2>/dev/null
}

case ${1-} in
    facts)
        identity
        conditions
        ;;
    conditions) conditions ;;
    *)
        echo "usage: sh facts.sh facts|conditions" >&2
        exit 2
        ;;
esac
section end
exit 0
