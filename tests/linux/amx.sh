#!/bin/sh
# Runs the checks of extended state, shows what the kernel complained of, and ends.
/bin/machine tsc
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo "userland"
if grep -q amx_tile /proc/cpuinfo; then xstate; else xstate no-amx; fi
echo "vCPUs: $(grep -c ^processor /proc/cpuinfo), clock: $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
dmesg | grep -iE "unchecked MSR|inconsisten|unstable|lockup|stall|warning|bug:|XSAVE consistency|call trace" || echo "no complaint"
machine end
