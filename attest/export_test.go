package attest

import "time"

// SetClock gives an attester another clock.
func (n *NitroTPM) SetClock(now func() time.Time) { n.now = now }

// SetCommandTime sets how long one command may take.
func (n *NitroTPM) SetCommandTime(d time.Duration) { n.commandTime = d }

// SetDevices sets what is opened, in order.
func (n *NitroTPM) SetDevices(devices ...string) { n.devices = devices }

// SetBufferSize sets the size of the NV index: swtpm allows less than a NitroTPM.
func (n *NitroTPM) SetBufferSize(size uint16) { n.bufferSize = size }

// StaleAge and the others are what tests of left-over indices need to know.
const (
	StaleAge    = staleAge
	WindowFirst = windowFirst
	WindowSize  = windowSize
)

// SetPath makes an NSM attester of another device.
func (n *NSM) SetPath(path string) { n.path = path }

// Devices lists what is opened, in order.
func (n *NitroTPM) Devices() []string { return n.devices }
