//! What stands for a network card in the benchmark: run by `BPF_PROG_TEST_RUN` with live frames (since
//! Linux 5.18), it has frames arrive at a device that nobody has sent.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg(target_arch = "bpf")]

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_PASS},
    btf_maps::ProgramArray,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

type Frame = [u32; 22];

/// What arrives: a small frame. Userspace writes it before it loads the program.
#[unsafe(no_mangle)]
static FRAME: Frame = [0; 22];

/// The program that the device's driver would run, if it has one.
#[btf_map]
static DRIVER: ProgramArray<1> = ProgramArray::new();

/// Puts the frame into a buffer, which the kernel uses again and again as the last packet has left it,
/// and lets it arrive: at the driver's program, or else in the stack.
#[xdp]
pub(crate) fn receive(context: XdpContext) -> u32 {
    let (start, end) = (context.data(), context.data_end());
    if start + size_of_val(&FRAME) > end {
        return XDP_ABORTED;
    }
    // SAFETY: within the frame. The value is read as it was loaded, not as it was compiled.
    unsafe { (start as *mut Frame).write((&raw const FRAME).read_volatile()) };
    // SAFETY: nothing of this program has to be dropped.
    unsafe { DRIVER.tail_call(&context, 0) };
    XDP_PASS
}

/// The program is loaded into the kernel as GPL-compatible, as the driver's program is.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier rejects a program that could panic.
    loop {}
}
