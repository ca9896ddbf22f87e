//! IA32_XFD and IA32_XFD_ERR (SDM Vol. 1, "Extended Feature Disable (XFD)").

use super::skipped_without_xfd;
use guests::{
    exceptions::{GP, NONE},
    processor::{TILEDATA, XFD, XFD_ERR, XSS, cpuid, rdmsr, try_wrmsr, wrmsr},
    report::Report,
};

pub(super) fn check(report: &mut Report) {
    if !skipped_without_xfd("xfd: registers") {
        registers(report);
    }
    let offered = cpuid(0xd, 1);
    let offered = u64::from(offered.edx) << 32 | u64::from(offered.ecx);
    report.all(
        "xfd: IA32_XSS raises #GP on each bit that CPUID does not offer",
        (0..64)
            .map(|bit| 1_u64 << bit)
            .filter(|bit| offered & bit == 0),
        |bit| try_wrmsr(XSS, bit) == GP,
    );
    report.equal(
        "xfd: IA32_XSS takes all that CPUID offers",
        (try_wrmsr(XSS, offered), rdmsr(XSS)),
        (NONE, offered),
    );
}

fn registers(report: &mut Report) {
    for (name, msr) in [("IA32_XFD", XFD), ("IA32_XFD_ERR", XFD_ERR)] {
        report.equal(
            format_args!("xfd: {name} holds TILEDATA"),
            (try_wrmsr(msr, TILEDATA), rdmsr(msr)),
            (NONE, TILEDATA),
        );
        report.all(
            format_args!("xfd: {name} raises #GP on each bit without a dynamic component"),
            (0..64)
                .map(|bit| 1_u64 << bit)
                .filter(|bit| *bit != TILEDATA),
            |bit| try_wrmsr(msr, bit) == GP,
        );
        report.equal(
            format_args!("xfd: a refused value leaves {name} alone"),
            rdmsr(msr),
            TILEDATA,
        );
        report.equal(
            format_args!("xfd: {name} is cleared"),
            (try_wrmsr(msr, 0), rdmsr(msr)),
            (NONE, 0),
        );
    }
    wrmsr(XFD, TILEDATA);
    report.equal(
        "xfd: setting IA32_XFD leaves IA32_XFD_ERR alone",
        rdmsr(XFD_ERR),
        0,
    );
    let armed = (cpuid(0xd, 0).ebx, cpuid(0xd, 1).ebx);
    wrmsr(XFD, 0);
    report.equal(
        "xfd: sizes in CPUID do not follow IA32_XFD",
        armed,
        (cpuid(0xd, 0).ebx, cpuid(0xd, 1).ebx),
    );
}
