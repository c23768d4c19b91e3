// Package capability holds the features of a VM that hook into its life: one file and one type
// each. See package machine for the hooks.
package capability

import (
	"context"
	"encoding/hex"
	"net"

	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/vmm"
)

// UserNetwork gives VMs in network mode "user" a card whose other end is the VMM's own user-mode
// stack. It makes nothing on the host.
type UserNetwork struct{}

// Name implements machine.Capability.
func (UserNetwork) Name() string { return "user-network" }

// ContributeMachine implements machine.MachineContributor.
func (UserNetwork) ContributeMachine(_ context.Context, req machine.MachineRequest) error {
	if req.Spec.Net == model.NetUser {
		req.Machine.NICs = append(req.Machine.NICs, vmm.NIC{Kind: vmm.NICUser, MAC: macOf(req.ID)})
	}
	return nil
}

// ContributeNetwork implements machine.NetworkContributor.
func (UserNetwork) ContributeNetwork(_ context.Context, req machine.NetworkRequest) error {
	if req.Spec.Net == model.NetUser {
		*req.Networks = append(*req.Networks, proto.Network{
			Address: vmm.UserAddress, Gateway: vmm.UserGateway, DNS: []string{vmm.UserDNS},
		})
	}
	return nil
}

// macOf derives a VM's MAC from its id: locally administered, unicast (IEEE 802, section 8.2.2).
func macOf(id string) net.HardwareAddr {
	mac := net.HardwareAddr{0x02, 0, 0, 0, 0, 0}
	hex.Decode(mac[1:], []byte(id)[:10]) // ids are 16 hex digits
	return mac
}
