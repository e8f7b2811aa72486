"""The rules of other programs, as iptables-save -c prints them on hosts where they run.

The counters are not zero, so that a rule that is written anew shows; no lab traffic matches
those that are about somebody's addresses.
"""

DOCKER_4 = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
[17:1020] -A FORWARD -j DOCKER-USER
[17:1021] -A FORWARD -j DOCKER-ISOLATION-STAGE-1
[18:1080] -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[19:1140] -A FORWARD -o docker0 -j DOCKER
[20:1200] -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
[21:1260] -A FORWARD -i docker0 -o docker0 -j ACCEPT
[22:1320] -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
[23:1380] -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
[24:1440] -A DOCKER-ISOLATION-STAGE-1 -j RETURN
[25:1500] -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
[26:1560] -A DOCKER-ISOLATION-STAGE-2 -j RETURN
[27:1620] -A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
[31:60] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[32:60] -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
[33:60] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
[34:60] -A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
[35:60] -A DOCKER -i docker0 -j RETURN
[36:60] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
"""

LIBVIRT_4 = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:LIBVIRT_FWI - [0:0]
:LIBVIRT_FWO - [0:0]
:LIBVIRT_INP - [0:0]
:LIBVIRT_OUT - [0:0]
[1:60] -A INPUT -j LIBVIRT_INP
[2:60] -A FORWARD -j LIBVIRT_FWI
[3:60] -A FORWARD -j LIBVIRT_FWO
[4:60] -A OUTPUT -j LIBVIRT_OUT
[5:60] -A LIBVIRT_FWI -d 192.168.122.0/24 -o virbr0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[6:60] -A LIBVIRT_FWI -o virbr0 -j REJECT --reject-with icmp-port-unreachable
[7:60] -A LIBVIRT_FWO -s 192.168.122.0/24 -i virbr0 -j ACCEPT
[8:60] -A LIBVIRT_FWO -i virbr0 -j REJECT --reject-with icmp-port-unreachable
[9:60] -A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 53 -j ACCEPT
[10:60] -A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 67 -j ACCEPT
[11:60] -A LIBVIRT_OUT -o virbr0 -p udp -m udp --dport 68 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:LIBVIRT_PRT - [0:0]
[12:60] -A POSTROUTING -j LIBVIRT_PRT
[13:60] -A LIBVIRT_PRT -o virbr0 -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:LIBVIRT_PRT - [0:0]
[14:60] -A POSTROUTING -j LIBVIRT_PRT
[15:60] -A LIBVIRT_PRT -s 192.168.122.0/24 -d 224.0.0.0/24 -j RETURN
[16:60] -A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535
[17:60] -A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE
COMMIT
"""

FIREWALLD_4 = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:PREROUTING_direct - [0:0]
[1:60] -A PREROUTING -m rpfilter --validmark --invert -j DROP
[2:60] -A PREROUTING -j PREROUTING_direct
[3:60] -A OUTPUT -o nowhere -j CT --notrack
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:PREROUTING_ZONES - [0:0]
:PRE_public - [0:0]
[4:60] -A PREROUTING -j PREROUTING_ZONES
[5:60] -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
[6:60] -A POSTROUTING -o nowhere -j DSCP --set-dscp 0x2e
[7:60] -A PREROUTING_ZONES -i nowhere -g PRE_public
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:INPUT_ZONES - [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
:ufw-user-limit - [0:0]
[8:60] -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
[9:60] -A INPUT -i lo -j ACCEPT
[10:60] -A INPUT -j INPUT_ZONES
[11:60] -A INPUT -j ufw-before-input
[12:60] -A INPUT -s 203.0.113.0/24 -m conntrack --ctstate INVALID -j DROP
[13:60] -A INPUT -s 203.0.113.0/24 -j REJECT --reject-with icmp-host-prohibited
[14:60] -A INPUT_ZONES -i nowhere -j RETURN
[15:60] -A ufw-before-input -p icmp -m icmp --icmp-type 3 -j ACCEPT
[16:60] -A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
[17:60] -A ufw-before-input -j ufw-user-input
[18:60] -A ufw-user-input -s 203.0.113.0/24 -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --set --name SSH --mask 255.255.255.255 --rsource
[19:60] -A ufw-user-input -s 203.0.113.0/24 -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 --name SSH --mask 255.255.255.255 --rsource -j ufw-user-limit
[20:60] -A ufw-user-limit -m limit --limit 3/min -j LOG --log-prefix "[UFW LIMIT BLOCK] "
[21:60] -A ufw-user-limit -j REJECT --reject-with icmp-port-unreachable
COMMIT
"""

KUBERNETES_4 = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
[1:60] -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[2:60] -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[3:60] -A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
[4:60] -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
[5:60] -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
[6:60] -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
[7:60] -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
[8:60] -A KUBE-SEP-AAAAAAAAAAAAAAAA -s 172.18.0.2/32 -j KUBE-MARK-MASQ
[9:60] -A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination 172.18.0.2:6443
[10:60] -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-NPX46M4PTMTKRN6Y
[11:60] -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
[12:60] -A KUBE-SVC-NPX46M4PTMTKRN6Y -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-AAAAAAAAAAAAAAAA
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
[13:60] -A INPUT -j KUBE-FIREWALL
[14:60] -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
[15:60] -A OUTPUT -j KUBE-FIREWALL
[16:60] -A KUBE-FIREWALL -m comment --comment "dropping marked packets" -m mark --mark 0x8000/0x8000 -j DROP
[17:60] -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-PROXY-CANARY - [0:0]
[18:60] -A PREROUTING -i nowhere -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
[19:60] -A PREROUTING -i nowhere -j MARK --set-xmark 0x10000000/0x10000000
COMMIT
"""

LOOKALIKES_4 = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:Nova-netagent-INPUT - [0:0]
:nova-compute-local - [0:0]
:nova-netagent - [0:0]
:nova-netagent- - [0:0]
:nova-netagent-2-INPUT - [0:0]
:nova-netagent-INPUTS - [0:0]
:nova-netagent-input - [0:0]
:nova-netagent-inst-1 - [0:0]
:nova-netagent-inst-A0000001 - [0:0]
:nova-netagent-inst-a0000001x - [0:0]
:nova-netagent-operator - [0:0]
:nova-netagent2-inst-a0000001 - [0:0]
:xnova-netagent-INPUT - [0:0]
[1:60] -A INPUT -s 203.0.113.1/32 -m comment --comment nova-netagent-INPUT -j ACCEPT
[2:60] -A INPUT -s 203.0.113.1/32 -m comment --comment nova-netagent-INPUT -j ACCEPT
[3:60] -A INPUT -m comment --comment "ours: -j nova-netagent-INPUT" -j nova-netagent-operator
[4:60] -A INPUT -s 203.0.113.1/32
[5:60] -A INPUT -s 203.0.113.2/32 -j nova-netagent-inst-1
[6:60] -A FORWARD -m comment --comment "-j nova-filter-top" -j nova-netagent-2-INPUT
[7:60] -A FORWARD -m comment --comment "-j nova-filter-top" -j nova-netagent-2-INPUT
[8:60] -A FORWARD -s 203.0.113.2/32 -j NFLOG --nflog-prefix "nova-netagent-FORWARD" --nflog-group 5
[9:60] -A OUTPUT -d 203.0.113.2/32 -j LOG --log-prefix "nova-netagent-OUTPUT " --log-level 7 --log-uid
[10:60] -A nova-netagent -s 203.0.113.3/32 -j DROP
[11:60] -A nova-netagent-2-INPUT -s 203.0.113.3/32 -j DROP
[12:60] -A nova-netagent-inst-1 -s 203.0.113.3/32 -j nova-netagent-inst-A0000001
[13:60] -A nova-netagent-inst-A0000001 -s 203.0.113.3/32 -j DROP
[14:60] -A nova-netagent-inst-a0000001x -j RETURN
[15:60] -A xnova-netagent-INPUT -j nova-netagent-INPUTS
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:nova-netagent-to-inst-1 - [0:0]
[16:60] -A PREROUTING -s 203.0.113.1/32 -m comment --comment "nova-netagent-PREROUTING" -j ACCEPT
[17:60] -A OUTPUT -d 203.0.113.1/32 -j nova-netagent-to-inst-1
COMMIT
"""

SIX = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[1:60] -A PREROUTING -i nowhere -m rpfilter --invert -j DROP
[2:60] -A PREROUTING -p ipv6-icmp -m icmp6 --icmpv6-type 134 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:LIBVIRT_PRT - [0:0]
[3:60] -A PREROUTING -i nowhere -j MARK --set-xmark 0x1/0xffffffff
[4:60] -A POSTROUTING -j LIBVIRT_PRT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
[5:60] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[6:60] -A POSTROUTING -s fd00:17::/80 ! -o docker0 -j MASQUERADE
[7:60] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd00:17::2]:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:nova-netagent-2-INPUT - [0:0]
:ufw6-before-input - [0:0]
[8:60] -A INPUT -j ufw6-before-input
[9:60] -A INPUT -s 2001:db8:bad::/48 -m comment --comment "nova-netagent-INPUT" -j ACCEPT
[10:60] -A INPUT -s 2001:db8:bad::/48 -m comment --comment "nova-netagent-INPUT" -j ACCEPT
[11:60] -A FORWARD -j DOCKER-USER
[12:60] -A ufw6-before-input -m rt --rt-type 0 -j DROP
[13:60] -A ufw6-before-input -p ipv6-icmp -m icmp6 --icmpv6-type 134 -m hl --hl-eq 255 -j ACCEPT
[14:60] -A ufw6-before-input -s 2001:db8:bad::/48 -m limit --limit 3/min -j LOG --log-prefix "[UFW BLOCK] "
[15:60] -A nova-netagent-2-INPUT -s 2001:db8:bad::/48 -j REJECT --reject-with icmp6-adm-prohibited
COMMIT
"""

WORLDS = {
    "docker": (DOCKER_4, SIX),
    "libvirt": (LIBVIRT_4, SIX),
    "firewalld": (FIREWALLD_4, SIX),
    "kubernetes": (KUBERNETES_4, SIX),
    "lookalikes": (LOOKALIKES_4, SIX),
}
"""What such a host has in IPv4 and in IPv6."""

NOVA_COMPUTE = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:nova-compute-FORWARD - [0:0]
:nova-compute-INPUT - [0:0]
:nova-compute-OUTPUT - [0:0]
:nova-compute-inst-7 - [0:0]
:nova-compute-local - [0:0]
:nova-compute-sg-fallback - [0:0]
:nova-filter-top - [0:0]
[101:6000] -A INPUT -j nova-compute-INPUT
[102:6000] -A FORWARD -j nova-filter-top
[103:6000] -A FORWARD -j nova-compute-FORWARD
[104:6000] -A OUTPUT -j nova-filter-top
[105:6000] -A OUTPUT -j nova-compute-OUTPUT
[106:6000] -A nova-compute-inst-7 -m state --state INVALID -j DROP
[107:6000] -A nova-compute-inst-7 -j nova-compute-sg-fallback
[108:6000] -A nova-compute-local -d 10.77.0.3/32 -j nova-compute-inst-7
[109:6000] -A nova-compute-sg-fallback -j DROP
[110:6000] -A nova-filter-top -j nova-compute-local
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:nova-compute-OUTPUT - [0:0]
:nova-compute-POSTROUTING - [0:0]
:nova-compute-PREROUTING - [0:0]
:nova-compute-float-snat - [0:0]
:nova-compute-snat - [0:0]
:nova-postrouting-bottom - [0:0]
[111:6000] -A PREROUTING -j nova-compute-PREROUTING
[112:6000] -A OUTPUT -j nova-compute-OUTPUT
[113:6000] -A POSTROUTING -j nova-compute-POSTROUTING
[114:6000] -A POSTROUTING -j nova-postrouting-bottom
[115:6000] -A nova-compute-POSTROUTING -s 10.77.0.0/24 -d 10.77.0.0/24 -j ACCEPT
[116:6000] -A nova-compute-snat -j nova-compute-float-snat
[117:6000] -A nova-compute-snat -s 10.77.0.0/24 -j SNAT --to-source 192.0.2.10
[118:6000] -A nova-postrouting-bottom -j nova-compute-snat
COMMIT
"""
"""Another agent of nova's kind (reference dump of nova-compute), which shares two chains with us."""


# --- the same in nf_tables; @REFUSED@ stands for whom they refuse

DOCKER_NFT = """\
table ip filter {
	chain DOCKER { ip daddr 172.17.0.2 iifname != "docker0" oifname "docker0" tcp dport 80 counter accept
	}
	chain DOCKER-ISOLATION-STAGE-1 {
		iifname "docker0" oifname != "docker0" counter jump DOCKER-ISOLATION-STAGE-2
		counter return
	}
	chain DOCKER-ISOLATION-STAGE-2 {
		oifname "docker0" counter drop
		counter return
	}
	chain DOCKER-USER {
		ip daddr @REFUSED@ tcp dport 80 counter drop
		counter return
	}
	chain FORWARD {
		type filter hook forward priority filter; policy accept;
		counter jump DOCKER-USER
		counter jump DOCKER-ISOLATION-STAGE-1
		oifname "docker0" ct state related,established counter accept
		oifname "docker0" counter jump DOCKER
		iifname "docker0" oifname != "docker0" counter accept
		iifname "docker0" oifname "docker0" counter accept
	}
}
"""

FIREWALLD_NFT = """\
table inet firewalld {
	chain filter_PREROUTING {
		type filter hook prerouting priority filter + 10; policy accept;
		icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
		meta nfproto ipv6 fib saddr . mark . iif oif missing drop
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002:a00::/24 } reject with icmpv6 type addr-unreachable
		jump filter_FORWARD_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD_ZONES {
		iifname "nowhere" goto filter_FWD_internal
		goto filter_FWD_public
	}
	chain filter_FWD_internal { accept
	}
	chain filter_FWD_public {
		jump filter_FWD_public_deny
		jump filter_FWD_public_allow
		reject with icmpx admin-prohibited
	}
	chain filter_FWD_public_deny { ip daddr @REFUSED@ tcp dport { 22, 80 } reject with icmpx host-unreachable
	}
	chain filter_FWD_public_allow { oifname { "eth0", "br1", "br2" } accept
	}
}
"""

OPERATOR_NFT = """\
table inet site {
	set blocked { type ipv4_addr; flags interval; elements = { 203.0.113.0/30, @REFUSED@/32 }
	}
	map by_port { type inet_service : verdict; elements = { 25 : drop, 80 : jump web, 443 : jump web }
	}
	chain web { ip daddr @blocked log prefix "blocked " drop
	}
	chain forward {
		type filter hook forward priority -10; policy accept;
		ct state vmap { established : accept, related : accept, invalid : drop }
		tcp dport vmap @by_port
	}
}
"""

NFT_WORLDS = {
    "docker": ("ip filter", "DOCKER-USER", "foreign, probably docker"),
    "firewalld": ("inet firewalld", "filter_FWD_public_deny", "foreign, probably firewalld"),
    "operator": ("inet site", "web", "foreign, not the agent's"),
}
"""Each one's table, the chain that refuses, and whose explain takes it to be."""
