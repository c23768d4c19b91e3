package agent

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"banger/internal/fault"
	"banger/internal/guest/agent/link"
	"banger/internal/guest/proto"
)

// maxNetworks bounds the cards of one machine.
const maxNetworks = 16

// checkNetworks finds mistakes in network documents before anything is done.
func checkNetworks(networks []proto.Network) error {
	if len(networks) > maxNetworks {
		return fault.New(fault.Invalid, "networks: %d are more than %d", len(networks), maxNetworks)
	}
	for i, n := range networks {
		if _, err := linkConfig(n); err != nil {
			return fault.New(fault.Invalid, "networks: number %d: %w", i, err)
		}
		if _, err := cardOf(n); err != nil {
			return fault.New(fault.Invalid, "networks: number %d: %w", i, err)
		}
		for _, other := range networks[:i] {
			if other.Card == n.Card {
				return fault.New(fault.Invalid, "networks: number %d names a card that an earlier one names", i)
			}
		}
	}
	return nil
}

// linkConfig reads the addresses of a network document.
func linkConfig(n proto.Network) (link.Config, error) {
	cfg := link.Config{MTU: n.MTU}
	var err error
	if cfg.Address, err = netip.ParsePrefix(n.Address); err != nil {
		return cfg, fmt.Errorf("address: %w", err)
	}
	if n.Gateway != "" {
		if cfg.Gateway, err = netip.ParseAddr(n.Gateway); err != nil {
			return cfg, fmt.Errorf("gateway: %w", err)
		}
	}
	if n.MAC != "" {
		if cfg.MAC, err = net.ParseMAC(n.MAC); err != nil {
			return cfg, fmt.Errorf("mac: %w", err)
		}
	}
	for _, dns := range n.DNS {
		if _, err := netip.ParseAddr(dns); err != nil {
			return cfg, fmt.Errorf("dns: %w", err)
		}
	}
	for _, domain := range n.Search {
		if strings.ContainsAny(domain, " \t\n") {
			return cfg, fmt.Errorf("search: %q is not a domain", domain)
		}
	}
	return cfg, nil
}

// cardOf reads how to find the card of a network. A card that already got its new address is found
// by that, so that configuring again is possible.
func cardOf(n proto.Network) (link.Card, error) {
	card := link.Card{Index: n.Card.Index}
	if card.Index < 0 {
		return card, fmt.Errorf("card: index %d", card.Index)
	}
	if n.Card.MAC == "" {
		return card, nil
	}
	for _, text := range []string{n.Card.MAC, n.MAC} {
		if text == "" {
			continue
		}
		mac, err := net.ParseMAC(text)
		if err != nil {
			return card, fmt.Errorf("card: %w", err)
		}
		card.MACs = append(card.MACs, mac)
	}
	return card, nil
}

// cards are the machine's network cards. Whoever uses them holds life.change.
type cards struct {
	networks []proto.Network // how the cards were configured last
}

// assign configures the cards for an identity. If a fork's parent had the same networks, the cards
// are ready. Accessing a card is expensive in emulation.
func (c *cards) assign(networks []proto.Network) error {
	if reflect.DeepEqual(c.networks, networks) {
		return nil
	}
	if err := configureNetworks(networks); err != nil {
		return err
	}
	c.networks = networks
	return nil
}

// renew configures the cards again. It writes resolv.conf only if the networks differ: the user may
// have changed it.
func (c *cards) renew(networks []proto.Network) error {
	if len(networks) == 0 {
		return nil
	}
	if err := configureNetworks(networks); err != nil {
		return err
	}
	same := reflect.DeepEqual(c.networks, networks)
	c.networks = networks
	if same {
		return nil
	}
	return replaceFile("/etc/resolv.conf", resolvConf(networks))
}

// configureNetworks configures the cards that the documents name and leaves others as they are.
// Doing it again changes nothing. All cards are found before one is changed, because changing a
// card may change how it is found.
func configureNetworks(networks []proto.Network) error {
	names := make([]string, len(networks))
	for i, n := range networks {
		card, err := cardOf(n)
		if err == nil {
			names[i], err = link.Find(card)
		}
		if err != nil {
			return err
		}
		if slices.Contains(names[:i], names[i]) {
			return fault.New(fault.Invalid, "networks: two of them are for the card %s", names[i])
		}
	}
	for i, n := range networks {
		cfg, err := linkConfig(n)
		if err != nil {
			return err
		}
		cfg.Metric = uint32(i)
		if err := link.Configure(names[i], cfg); err != nil {
			return err
		}
	}
	return nil
}

// resolvConf is resolv.conf(5) for all networks. Earlier ones come first, and nothing is there
// twice.
func resolvConf(networks []proto.Network) []byte {
	var servers, domains []string
	for _, n := range networks {
		for _, server := range n.DNS {
			if !slices.Contains(servers, server) {
				servers = append(servers, server)
			}
		}
		for _, domain := range n.Search {
			if !slices.Contains(domains, domain) {
				domains = append(domains, domain)
			}
		}
	}
	var out bytes.Buffer
	for _, server := range servers {
		fmt.Fprintf(&out, "nameserver %s\n", server)
	}
	if len(domains) > 0 {
		fmt.Fprintf(&out, "search %s\n", strings.Join(domains, " "))
	}
	return out.Bytes()
}
