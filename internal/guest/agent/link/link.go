// Package link configures a network card through rtnetlink (rtnetlink(7)), as far as a guest with one card needs it.
package link

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Config is what a card shall be.
type Config struct {
	MAC     net.HardwareAddr // nil: leave it
	Address netip.Prefix
	Gateway netip.Addr // of the default route; the zero value means none
	MTU     int        // 0: leave it
}

// Up brings an interface up as it is.
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

// Configure sets the card up. A gateway outside the address's network is reached on the link itself, as with a /32. Addresses and default
// routes of an earlier identity go first, so that configuring again is the same as configuring once.
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
	addrs, err := card.Addrs()
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			if err := conn.do(address(unix.RTM_DELADDR, 0, card.Index, p)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("removing address %s: %w", p, err)
			}
		}
	}
	if len(cfg.MAC) > 0 && cfg.MAC.String() != card.HardwareAddr.String() {
		// Most drivers refuse a new address while the card is up.
		if err := conn.do(setLink(card.Index, 0, cfg.MAC, 0)); err != nil {
			return fmt.Errorf("setting the hardware address of %s: %w", name, err)
		}
	}
	enableIPv6(name, cfg.Address.Addr().Is6())
	if err := conn.do(setLink(card.Index, unix.IFF_UP, nil, cfg.MTU)); err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	if err := conn.do(address(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, card.Index, cfg.Address)); err != nil {
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

// enableIPv6 switches IPv6 on a card on or off. Where the host gives no address of that family nobody answers to one: a machine would look for
// neighbours and routers in vain, again after each restore. Where it cannot be switched (a kernel without IPv6, a read-only /proc/sys) it stays as it is:
// an address that it would be needed for says so.
func enableIPv6(name string, on bool) {
	disable := "1"
	if on {
		disable = "0"
	}
	_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6"), []byte(disable), 0)
}

// First returns the name of the first virtio network card: the one with the lowest interface index.
func First() (string, error) {
	return first("/sys/class/net")
}

func first(class string) (string, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return "", fmt.Errorf("looking for network cards: %w", err)
	}
	best, bestIndex := "", 0
	for _, e := range entries {
		driver, err := os.Readlink(filepath.Join(class, e.Name(), "device/driver"))
		if err != nil || filepath.Base(driver) != "virtio_net" {
			continue
		}
		var index int
		text, err := os.ReadFile(filepath.Join(class, e.Name(), "ifindex"))
		if err != nil {
			continue
		}
		if _, err := fmt.Sscan(strings.TrimSpace(string(text)), &index); err == nil && (best == "" || index < bestIndex) {
			best, bestIndex = e.Name(), index
		}
	}
	if best == "" {
		return "", fmt.Errorf("looking for a virtio network card: %w", fs.ErrNotExist)
	}
	return best, nil
}
