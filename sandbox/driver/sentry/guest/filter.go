// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/runsc/boot/filter/config"

	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
)

// The filter of system calls is the same for all Sentries of one binary: what
// it depends on, the control socket's descriptor and the process's own id,
// are the same in each. Making it costs some 15 ms of processor time, so the
// driver has it made once, by this binary in this role, and hands it to each
// Sentry as a sealed file.

// maxFilter is the kernel's own bound (BPF_MAXINSNS).
const maxFilter = 4096

// Filter writes the filter to bootdoc.FilterOutFD, eight bytes an
// instruction.
func Filter() error {
	instrs, err := buildFilter()
	if err != nil {
		return err
	}
	var b []byte
	for _, in := range instrs {
		b = binary.LittleEndian.AppendUint16(b, in.OpCode)
		b = append(b, in.JumpIfTrue, in.JumpIfFalse)
		b = binary.LittleEndian.AppendUint32(b, in.K)
	}
	out := os.NewFile(bootdoc.FilterOutFD, "filter")
	if _, err := out.Write(b); err != nil {
		return fmt.Errorf("write filter: %w", err)
	}
	return out.Close()
}

// buildFilter makes the filter for this process: it must be the first of its
// PID namespace, as each Sentry is.
func buildFilter() ([]bpf.Instruction, error) {
	if os.Getpid() != 1 {
		return nil, fmt.Errorf("not the first process of its namespace, but %d", os.Getpid())
	}
	p, err := platform.Lookup(Config(false).Platform)
	if err != nil {
		return nil, err
	}
	infos := p.PrecompiledSeccompInfo()
	if len(infos) != 1 {
		return nil, fmt.Errorf("%d kinds of filter for the platform", len(infos))
	}
	// Everything that would allow more is off: files and network of the
	// host, profiling, devices.
	opts := config.Options{Platform: infos[0], ControllerFD: bootdoc.ControlFD}
	rules, deny := config.Rules(opts)
	program := seccomp.Program{
		RuleSets: []seccomp.RuleSet{{Rules: deny}, {Rules: rules, Action: seccomp.Allow}},
		Options:  config.SeccompOptions(opts),
	}
	instrs, _, err := program.Build()
	return instrs, err
}

// readFilter reads what Filter wrote.
func readFilter(r io.Reader) ([]bpf.Instruction, error) {
	b, err := io.ReadAll(io.LimitReader(r, 8*maxFilter+1))
	if err != nil {
		return nil, fmt.Errorf("read filter: %w", err)
	}
	if len(b) == 0 || len(b)%8 != 0 || len(b) > 8*maxFilter {
		return nil, fmt.Errorf("filter of %d bytes", len(b))
	}
	instrs := make([]bpf.Instruction, 0, len(b)/8)
	for ; len(b) > 0; b = b[8:] {
		instrs = append(instrs, bpf.Instruction{
			OpCode: binary.LittleEndian.Uint16(b), JumpIfTrue: b[2], JumpIfFalse: b[3], K: binary.LittleEndian.Uint32(b[4:]),
		})
	}
	return instrs, nil
}
