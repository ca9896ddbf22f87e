#!/bin/sh
# A shell on the console; leaving it switches the VM off.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo "type exit to end the VM"
setsid cttyhack sh
machine end
