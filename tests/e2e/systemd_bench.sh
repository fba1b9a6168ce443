#!/bin/sh
# The first process of the bench: makes a root of its own and becomes systemd in it. systemd_bench.py starts it in new namespaces, with
# a pipe as its input, and lets it go on twice: when the namespaces are its own, and when nothing of the machine is left in its root but
# /usr, to be read. The end of the pipe ends it. What fails on the way ends it as well, before there is a systemd.
#
#   systemd_bench.sh FOLDER      FOLDER has installed/usr, etc and an empty root
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
cd "$1"
echo "new namespaces"
read -r go_on

mount -t tmpfs -o mode=0755,size=256m bench root
cd root
mkdir -p dev etc machine proc root run sys usr var/lib var/log
ln -s ../run var/run
mkdir -m 1777 tmp var/tmp
for name in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$name" ]; then cp -P "/$name" .; fi
done
cp -a ../etc .
mount -t overlay -o ro,lowerdir=../installed/usr:/usr bench usr
# No unit of the distribution, and none that is made at the start: systemd knows those of FOLDER/etc and what was installed.
mount -o bind,ro ../installed/usr/lib/systemd/system usr/lib/systemd/system
for name in system-generators system-environment-generators; do
  mount -t tmpfs -o ro,mode=0755,size=4k bench "usr/lib/systemd/$name"
done
for name in tmp var/tmp; do mount -t tmpfs -o nosuid,nodev,mode=1777,size=64m bench "$name"; done
mount -t tmpfs -o nosuid,nodev,mode=0755,size=64m bench run

mount -t tmpfs -o nosuid,mode=0755,size=4m bench dev
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 0666 "dev/${node%:*}" c 1 "${node#*:}"; done
mknod -m 0666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,nosuid,noexec,ptmxmode=0666,mode=0620 bench dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777,size=64m bench dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

# The kernel's settings are the whole machine's: to be read only.
mount -t proc -o nosuid,nodev,noexec bench proc
for name in sys sysrq-trigger irq bus; do
  if [ -e "proc/$name" ]; then mount -o bind,ro "proc/$name" "proc/$name"; fi
done
mount -t sysfs -o ro,nosuid,nodev,noexec bench sys
mount -t cgroup2 -o nosuid,nodev,noexec bench sys/fs/cgroup

pivot_root . machine
cd /
umount -l machine
rmdir machine
echo "new root"
read -r go_on

# The clock, the kernel's modules and its log are the whole machine's, too.
exec env -i PATH="$PATH" container=bench setpriv --bounding-set \
  -sys_time,-sys_module,-sys_rawio,-sys_boot,-syslog,-wake_alarm,-audit_control,-mac_admin,-mac_override \
  /usr/lib/systemd/systemd --unit=bench.target </dev/null
