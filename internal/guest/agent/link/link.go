// Package link configures network cards through rtnetlink (rtnetlink(7)), as far as a guest needs
// it.
package link

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Config is the wanted state of a card.
type Config struct {
	MAC     net.HardwareAddr // nil: leave it
	Address netip.Prefix
	Gateway netip.Addr // of the default route; the zero value means none
	Metric  uint32     // of the default route; the lowest is preferred
	MTU     int        // 0: leave it
}

// Up brings an interface up and changes nothing else.
func Up(name string) error {
	card, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	conn, err := dial()
	if err != nil {
		return err
	}
	defer conn.close()
	if err := conn.do(setLink(card.Index, unix.IFF_UP, nil, 0)); err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	return nil
}

// Configure configures a card. It first removes addresses and default routes of an earlier
// configuration, so it is idempotent. A gateway outside the address's network is on the link
// itself, as with a /32.
func Configure(name string, cfg Config) error {
	card, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("configuring %s: %w", name, err)
	}
	conn, err := dial()
	if err != nil {
		return err
	}
	defer conn.close()
	if err := removeAddresses(conn, card); err != nil {
		return err
	}
	if len(cfg.MAC) > 0 && !bytes.Equal(cfg.MAC, card.HardwareAddr) {
		// Most drivers refuse a new address while the card is up.
		if err := conn.do(setLink(card.Index, 0, cfg.MAC, 0)); err != nil {
			return fmt.Errorf("setting the hardware address of %s: %w", name, err)
		}
	}
	enableIPv6(name, cfg.Address.Addr().Is6())
	if err := conn.do(setLink(card.Index, unix.IFF_UP, nil, cfg.MTU)); err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	err = conn.do(address(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, card.Index, cfg.Address))
	if err != nil {
		return fmt.Errorf("adding address %s: %w", cfg.Address, err)
	}
	if !cfg.Gateway.IsValid() {
		return nil
	}
	if err := conn.do(defaultRoute(card.Index, cfg)); err != nil {
		return fmt.Errorf("adding a route by %s: %w", cfg.Gateway, err)
	}
	return nil
}

// removeAddresses removes all addresses that were configured, and with them their routes.
func removeAddresses(conn *conn, card *net.Interface) error {
	addrs, err := card.Addrs()
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", card.Name, err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		err = conn.do(address(unix.RTM_DELADDR, 0, card.Index, p))
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing address %s: %w", p, err)
		}
	}
	return nil
}

// enableIPv6 switches IPv6 on a card on or off. Without peers of that family the guest would search
// for routers in vain after each restore. It ignores errors: if IPv6 is needed, setting its address
// fails.
func enableIPv6(name string, on bool) {
	disable := "1"
	if on {
		disable = "0"
	}
	_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6"), []byte(disable), 0)
}

// Card selects a virtio network card.
type Card struct {
	MACs  []net.HardwareAddr // the card that has one of these addresses; earlier ones are preferred
	Index int                // without MACs: place in the order of the interface indexes
}

// Find returns the name of a virtio network card.
func Find(c Card) (string, error) { return find("/sys/class/net", c) }

func find(class string, c Card) (string, error) {
	cards, err := list(class)
	if err != nil {
		return "", err
	}
	for _, mac := range c.MACs {
		for _, found := range cards {
			if bytes.Equal(found.mac, mac) {
				return found.name, nil
			}
		}
	}
	if len(c.MACs) > 0 {
		return "", fmt.Errorf("looking for the network card with address %v: %w", c.MACs[0], fs.ErrNotExist)
	}
	if c.Index >= len(cards) {
		return "", fmt.Errorf("looking for network card %d of %d: %w", c.Index, len(cards), fs.ErrNotExist)
	}
	return cards[c.Index].name, nil
}

// card is a virtio network card.
type card struct {
	name    string
	ifindex int
	mac     net.HardwareAddr
}

// list returns the virtio cards in the order of their interface indexes.
func list(class string) ([]card, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, fmt.Errorf("looking for network cards: %w", err)
	}
	var cards []card
	for _, e := range entries {
		dir := filepath.Join(class, e.Name())
		driver, err := os.Readlink(filepath.Join(dir, "device/driver"))
		if err != nil || filepath.Base(driver) != "virtio_net" {
			continue
		}
		ifindex, err := strconv.Atoi(read(dir, "ifindex"))
		if err != nil {
			continue
		}
		mac, _ := net.ParseMAC(read(dir, "address"))
		cards = append(cards, card{e.Name(), ifindex, mac})
	}
	slices.SortFunc(cards, func(a, b card) int { return cmp.Compare(a.ifindex, b.ifindex) })
	return cards, nil
}

func read(dir, name string) string {
	text, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(text))
}
