// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/metric"
	"gvisor.dev/gvisor/pkg/ring0"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/devices/nvproxy/nvconf"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap" // the one platform that needs no hardware
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/cmd/sandboxsetup"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/specutils"

	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
)

// Boot turns this process into the sandbox that the boot document on
// bootdoc.DocFD describes. It returns only when the sandbox has ended.
func Boot() error {
	doc, err := bootdoc.Read(os.NewFile(bootdoc.DocFD, "boot document"))
	if err != nil {
		return err
	}
	logTo(doc)
	debug.SetTraceback("system")
	if err := noCoreDump(); err != nil {
		return err
	}

	cpuid.Initialize()
	ring0.InitDefault()

	if err := refuseStrangers(bootdoc.Count); err != nil {
		return err
	}
	nulls, err := openNulls()
	if err != nil {
		return err
	}
	if err := emptyRoot(); err != nil {
		return err
	}
	filter, err := readFilter(os.NewFile(bootdoc.FilterFD, "filter"))
	if err != nil {
		return err
	}
	unmounter, err := startUnmounter()
	if err != nil {
		return err
	}
	if err := sandboxsetup.ApplyCapsAllThreads(&specs.LinuxCapabilities{}, nil); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	// The driver opens the gate when this process is in its cgroup and in
	// the journal; when the driver dies before that, so must we.
	if err := passGate(bootdoc.GateFD); err != nil {
		return err
	}

	loader, err := boot.New(args(doc, nulls))
	if err != nil {
		return fmt.Errorf("boot kernel: %w", err)
	}
	loader.PreSeccompCallback = func() {
		// Last acts before anything of the application is loaded: nothing
		// of the host's process list is left to see, and every thread is
		// behind the filter. A Sentry that cannot make sure of it dies.
		err := unmounter.unmount()
		if err == nil {
			err = seccomp.SetFilter(filter)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "redoubt-sentry:", err)
			os.Exit(1)
		}
	}
	if err := addPod(loader); err != nil {
		return err
	}
	metric.Initialize()

	if err := tellReady(bootdoc.ReadyFD); err != nil {
		return err
	}
	loader.WaitForStartSignal()
	if err := loader.Run(); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	ws := loader.WaitExit()
	return fmt.Errorf("the guest's first process ended with status %#x", uint32(ws))
}

// logTo points the Sentry's log to standard error. Without Debug it is
// dropped: its warnings can be provoked at will by the application, and the
// disk behind it is the node's.
func logTo(doc bootdoc.Doc) {
	if doc.Debug {
		log.SetLevel(log.Debug)
		log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: os.Stderr}})
		return
	}
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}})
}

// noCoreDump keeps what the application has in memory from a disk of the
// host. Of limit 0 the kernel still pipes a dump to a program that asked for
// it; of limit 1 it does not (core(5), and the kernel's fs/coredump.c).
func noCoreDump() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}); err != nil {
		return fmt.Errorf("limit core dumps: %w", err)
	}
	return nil
}

func passGate(fd uintptr) error {
	gate := os.NewFile(fd, "gate")
	defer gate.Close()
	if n, err := gate.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("gate stayed shut: %w", err)
	}
	return nil
}

func tellReady(fd uintptr) error {
	ready := os.NewFile(fd, "ready")
	defer ready.Close()
	if _, err := ready.Write([]byte{1}); err != nil {
		return fmt.Errorf("tell ready: %w", err)
	}
	return nil
}

func args(doc bootdoc.Doc, stdio []int) boot.Args {
	return boot.Args{
		ID:                 doc.Root,
		Spec:               firstProcess(doc),
		Conf:               Config(doc.Debug),
		ControllerFD:       bootdoc.ControlFD,
		PinRingFD:          -1,
		GoferFDs:           []int{bootdoc.RootFD},
		GoferMountConfs:    []specutils.GoferMountConf{{Lower: specutils.Erofs, Upper: specutils.MemoryOverlay}},
		DevGoferFD:         -1,
		ExecFD:             bootdoc.PauseFD,
		StdioFDs:           stdio,
		NumCPU:             doc.CPUs,
		CPUQuota:           doc.CPUQuotaMicros,
		CPUPeriod:          doc.CPUPeriodMicros,
		TotalMem:           doc.MemoryBytes,
		TotalHostMem:       doc.HostMemoryBytes,
		PodInitConfigFD:    -1,
		RootfsUpperTarFD:   -1,
		ProductName:        "redoubt",
		NvidiaHostSettings: &nvconf.HostSettings{},
		Device:             fd.New(-1),
	}
}

// openNulls opens the standard streams of the guest's first process, which
// the Sentry insists on, while there is a /dev.
func openNulls() ([]int, error) {
	fds := make([]int, 3)
	for i := range fds {
		fd, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		fds[i] = fd
	}
	return fds, nil
}

// Config is how every Sentry of ours runs.
func Config(debug bool) *config.Config {
	return &config.Config{
		DisableSeccomp:        true, // the loader's own: Boot installs the filter (filter.go)
		Traceback:             "system",
		Debug:                 debug,
		Platform:              "systrap",
		Network:               config.NetworkSandbox,
		FileAccess:            config.FileAccessExclusive,
		FileAccessMounts:      config.FileAccessShared,
		HostUDS:               config.HostUDSNone,
		HostFifo:              config.HostFifoNone,
		WatchdogAction:        "log",
		PanicSignal:           -1,
		NumNetworkChannels:    1,
		RXChecksumOffload:     true,
		QDisc:                 config.QDiscFIFO,
		OCISeccomp:            true,
		InSandboxCgroup:       config.InSandboxCgroupV2, // what programs look at to see their limits
		FDLimit:               -1,
		DCache:                -1,
		ControlRPCStopTimeout: controlGrace,
		NetDisconnectOk:       true,
		// Everything left at its zero value is off: raw sockets, packet
		// sockets that write, io_uring, setuid, direct access to host
		// file systems, profiling, tracing, checkpoints, devices.
	}
}

// firstProcess is the specification of the process that keeps the pod's
// kernel alive while containers come and go.
func firstProcess(doc bootdoc.Doc) *specs.Spec {
	annotations := map[string]string{}
	for i := range doc.SharedSlots {
		name := boot.MountPrefix + "s" + strconv.Itoa(i)
		annotations[name+".source"] = bootdoc.SharedSource(i)
		annotations[name+".type"] = "tmpfs"
		annotations[name+".share"] = "pod"
	}
	return &specs.Spec{
		Version:     specs.Version,
		Hostname:    doc.Hostname,
		Annotations: annotations,
		Root:        &specs.Root{Path: "/"}, // an overlay in memory, which only the pausing process sees
		Process: &specs.Process{
			Args:            []string{"pause"},
			Cwd:             "/",
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{},
		},
		Linux: &specs.Linux{},
	}
}

// refuseStrangers makes sure that nothing came in but what the driver gives
// in the given number of descriptors: an open file of the host would be a way
// around the empty root, an open directory a highway.
func refuseStrangers(given int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(n, &st); err != nil {
			continue // the one that listed the directory, closed by now
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return fmt.Errorf("descriptor %d is a directory", n)
		}
		// Type 0 is what the kernel gives pollers and event counters. Those
		// and pipes this program has made for itself before main.
		if t := st.Mode & unix.S_IFMT; n >= 3+given && t != 0 && t != unix.S_IFIFO {
			return fmt.Errorf("descriptor %d was not given by the driver", n)
		}
	}
	return nil
}
