//! The kernel programs: service translation and pod routing.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod maps;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        macros::{cgroup_sock_addr, classifier},
        programs::{SockAddrContext, TcContext},
    };

    macro_rules! classifiers {
        ($($name:ident)*) => {$(
            #[classifier]
            pub fn $name(_: TcContext) -> i32 {
                if let Some(count) = super::maps::COUNTERS.get_ptr_mut(0) {
                    unsafe { *count += 1 };
                }
                let _ = super::maps::CONFIG.get(0);
                let _ = unsafe { super::maps::FLOWS.get(datapath_common::Tuple::default()) }.is_some();
                -1
            }
        )*};
    }
    classifiers!(from_pod to_pod from_uplink to_uplink sweep);

    #[cgroup_sock_addr(connect4)]
    pub fn connect4(_: SockAddrContext) -> i32 {
        1
    }
    #[cgroup_sock_addr(connect6)]
    pub fn connect6(_: SockAddrContext) -> i32 {
        1
    }
    #[cgroup_sock_addr(sendmsg4)]
    pub fn sendmsg4(_: SockAddrContext) -> i32 {
        1
    }
    #[cgroup_sock_addr(sendmsg6)]
    pub fn sendmsg6(_: SockAddrContext) -> i32 {
        1
    }
    #[cgroup_sock_addr(recvmsg4)]
    pub fn recvmsg4(_: SockAddrContext) -> i32 {
        1
    }
    #[cgroup_sock_addr(recvmsg6)]
    pub fn recvmsg6(_: SockAddrContext) -> i32 {
        1
    }
    #[cgroup_sock_addr(getpeername4)]
    pub fn getpeername4(_: SockAddrContext) -> i32 {
        1
    }
    #[cgroup_sock_addr(getpeername6)]
    pub fn getpeername6(_: SockAddrContext) -> i32 {
        1
    }
}

/// The programs are loaded into the kernel as GPL-compatible, which the helpers ask for.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier rejects a program that could panic.
    loop {}
}
