# usage: sh image.sh SUITE WORKDIR IMAGE
# Makes a root file system with systemd and sshd and imports it into docker.
set -eu
suite=$1 root=$2/root image=$3
components=main
case $suite in focal | jammy) components=main,universe ;; esac
# A host that lives for minutes needs no file on the disk, and nobody reads its manuals.
mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
	'path-exclude=/usr/share/locale/*' >"$root/etc/dpkg/dpkg.cfg.d/lab"
# Each package costs a second: no more than the tests use.
debootstrap --variant=minbase --components=$components \
	--include=systemd,systemd-sysv,dbus,libpam-systemd,procps,openssh-server,sudo,gpgv \
	"$suite" "$root" >&2
chroot "$root" systemctl mask systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
	systemd-udev-trigger.service getty@tty1.service getty.target console-getty.service \
	apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
	fstrim.timer e2scrub_all.timer e2scrub_reap.service motd-news.timer \
	systemd-logind.service systemd-timesyncd.service systemd-resolved.service systemd-networkd.service \
	dpkg-db-backup.timer systemd-tmpfiles-clean.timer >&2
# Each daemon-reload runs every generator, which is most of its work. None makes a unit here.
mkdir -p "$root/etc/systemd/system-generators"
for g in "$root"/usr/lib/systemd/system-generators/* "$root"/lib/systemd/system-generators/*; do
	[ ! -e "$g" ] || ln -sf /dev/null "$root/etc/systemd/system-generators/${g##*/}"
done
# No package of a test asks debconf, which would load Perl for each of apt's runs. The caches'
# usual tables and the planner's log are for a whole distribution.
rm -f "$root/etc/apt/apt.conf.d/70debconf"
printf '%s\n' 'APT::Cache-HashTableSize "1009";' 'Dir::Log::Planner "/dev/null";' >"$root/etc/apt/apt.conf.d/90lab"
# logind is masked: without it this only delays every login.
sed -i /pam_systemd/d "$root/etc/pam.d/common-session"
chroot "$root" useradd -m -s /bin/bash deploy
echo 'deploy ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/deploy"
chmod 440 "$root/etc/sudoers.d/deploy"
# The stub repositories are the only sources.
rm -rf "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d/"* "$root/var/lib/apt/lists/"* "$root/var/cache/apt/archives/"*.deb "$root/var/cache/apt/"*.bin
# Many short connections at once are a test's usual load.
printf 'MaxStartups 200\nMaxSessions 200\nUseDNS no\n' >"$root/etc/ssh/sshd_config.d/lab.conf"
tar -C "$root" -c . | docker import -c 'ENV container=docker' -c 'CMD ["/lib/systemd/systemd"]' - "$image" >&2
