# Records testdata/real/SUITE: run as root in a throw-away chroot of the suite,
# with a signed repository in /srv/repo that has tyk-gateway 4.0.8, 5.2.5 and
# 5.3.0 (each with another tyk.conf), 6.0.0 (Depends: libnothing), 6.1.0
# (postinst exits 7) and tyk-pump 1.9.0, its key in key.gpg and a foreign key in
# nokey.gpg. usage: sh record.sh OUTDIR
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
out=$1
mkdir -p "$out" && cd /
sources() { echo "deb [signed-by=/srv/repo/$1] $2 ./" >/etc/apt/sources.list.d/tyk_tyk-gateway.list; }
apt() { apt-get -q "$@"; }
cat /etc/os-release >"$out/os-release.txt"
rm -f /var/log/apt/history.log
sources key.gpg file:/srv/repo && apt update >"$out/update-ok.txt" 2>&1
sources nokey.gpg file:/srv/repo && apt update >"$out/update-nokey.txt" 2>&1
sources key.gpg file:/srv/gone && apt update >"$out/update-gone.txt" 2>&1
sources key.gpg http://127.0.0.1:9/tyk && apt update >"$out/update-network.txt" 2>&1
sources key.gpg file:/srv/repo && apt update >/dev/null 2>&1
apt-cache madison tyk-gateway nothing tyk-pump >"$out/madison.txt" 2>&1
apt -y install tyk-gateway=5.2.5 >/dev/null 2>&1
echo edited >>/opt/tyk-gateway/tyk.conf
apt -y -s install tyk-gateway=5.3.0 tyk-pump >"$out/simulate-upgrade.txt" 2>&1
apt -y -s --allow-downgrades install tyk-gateway=4.0.8 >"$out/simulate-downgrade.txt" 2>&1
apt -y -s install tyk-pump tyk-gateway- >"$out/simulate-remove.txt" 2>&1
apt-get -qq --print-uris install tyk-gateway=5.3.0 >"$out/uris.txt" 2>&1
apt -y install tyk-gateway=5.3.0 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
	-o APT::Status-Fd=3 3>"$out/status.txt" >/dev/null 2>&1
apt-mark hold tyk-gateway >/dev/null
dpkg-query -W -f '${Package}\t${Architecture}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\t${db:Status-Eflag}\n${Conffiles}\n' \
	-- 'tyk-*' dpkg zzz >"$out/dpkg-query.txt" 2>/dev/null
apt -y install tyk-gateway=4.0.8 >"$out/fail-downgrade.txt" 2>&1
apt -y --allow-downgrades install tyk-gateway=4.0.8 >"$out/fail-held.txt" 2>&1
apt-mark unhold tyk-gateway >/dev/null
apt -y install tyk-gateway=9 >"$out/fail-version.txt" 2>&1
apt -y install nothing >"$out/fail-package.txt" 2>&1
apt -y install tyk-gateway=6.0.0 >"$out/fail-depends.txt" 2>&1
apt -y --no-remove install tyk-gateway- >"$out/fail-removal.txt" 2>&1
apt -y install tyk-gateway=6.1.0 -o Dpkg::Use-Pty=0 </dev/null >"$out/fail-conffile.txt" 2>&1
dpkg --force-confold --configure -a >"$out/fail-script.txt" 2>&1
apt -y --allow-downgrades -o Dpkg::Options::=--force-confold install tyk-gateway=4.0.8 >/dev/null 2>&1
dpkg --verify tyk-gateway >"$out/verify.txt" 2>&1
apt -y purge tyk-gateway >/dev/null 2>&1
cp /var/log/apt/history.log "$out/history.txt"
su -s /bin/sh nobody -c 'apt-get -q -y install nothing' >"$out/fail-root.txt" 2>&1
