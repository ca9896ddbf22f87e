//! AMX instructions, armed and not, and their configuration (SDM Vol. 2,
//! "Exception Classes of Intel AMX Instructions": E1 to E6).

use super::{AMX, arm, begin, skipped_without_xfd, take_xfd_err};
use guests::{
    exceptions::{GP, NM, NONE, UD},
    processor::{
        TILEDATA, XFD_ERR, in_use, offered_xcr0, set_osxsave, set_task_switched, try_xsetbv, wrmsr,
    },
    report::Report,
    tiles::{self, Config, ROW_BYTES, Tile},
    vector_of,
};

/// An instruction by name, and a trial of it.
type Trial = (&'static str, fn() -> u64);

/// Instructions on tile data: name, and what one raises.
const ON_DATA: [Trial; 9] = [
    ("TILELOADD", || {
        let tile = tiles::pattern(0, 0);
        vector_of!("tileloadd tmm0, [{base} + {stride}]", base = in(reg) &tile, stride = in(reg) ROW_BYTES)
    }),
    ("TILELOADDT1", || {
        let tile = tiles::pattern(0, 0);
        vector_of!("tileloaddt1 tmm1, [{base} + {stride}]", base = in(reg) &tile, stride = in(reg) ROW_BYTES)
    }),
    ("TILESTORED", || {
        let mut tile = Tile::ZERO;
        vector_of!("tilestored [{base} + {stride}], tmm0", base = in(reg) &mut tile, stride = in(reg) ROW_BYTES)
    }),
    ("TILEZERO", || vector_of!("tilezero tmm2")),
    ("TDPBSSD", || vector_of!("tdpbssd tmm0, tmm1, tmm2")),
    ("TDPBSUD", || vector_of!("tdpbsud tmm0, tmm1, tmm2")),
    ("TDPBUSD", || vector_of!("tdpbusd tmm0, tmm1, tmm2")),
    ("TDPBUUD", || vector_of!("tdpbuud tmm0, tmm1, tmm2")),
    ("TDPBF16PS", || vector_of!("tdpbf16ps tmm0, tmm1, tmm2")),
];

/// LDTILECFG of 64 bytes.
fn load_config(config: &[u8; 64]) -> u64 {
    vector_of!("ldtilecfg [{at}]", at = in(reg) config)
}

/// What STTILECFG stores; `None` if it raises an exception.
fn stored_config() -> Option<[u8; 64]> {
    let mut config = [0xee; 64];
    (vector_of!("sttilecfg [{at}]", at = in(reg) &mut config) == NONE).then_some(config)
}

/// A configuration of eight full tiles, with bytes changed.
fn config(changes: &[(usize, u8)]) -> [u8; 64] {
    let mut bytes = Config::FULL.bytes();
    for &(at, value) in changes {
        bytes[at] = value;
    }
    bytes
}

pub(super) fn check(report: &mut Report) {
    configuration(report);
    begin();
    Config::FULL.load();
    for (name, instruction) in ON_DATA {
        report.equal(
            format_args!("amx: {name} unarmed raises nothing"),
            instruction(),
            NONE,
        );
    }
    if skipped_without_xfd("amx: armed") {
        return;
    }
    arm(true);
    for (name, instruction) in ON_DATA {
        report.equal(
            format_args!("amx: {name} armed raises #NM and is recorded"),
            (instruction(), take_xfd_err()),
            (NM, TILEDATA),
        );
    }
    let without_data = [
        load_config(&config(&[])),
        vector_of!("sttilecfg [{at}]", at = in(reg) &mut [0_u8; 64]),
        vector_of!("tilerelease"),
    ];
    for (name, vector) in ["LDTILECFG", "STTILECFG", "TILERELEASE"]
        .into_iter()
        .zip(without_data)
    {
        report.equal(
            format_args!("amx: {name} armed raises nothing"),
            vector,
            NONE,
        );
    }
    report.equal("amx: they record nothing", take_xfd_err(), 0);
    order(report);
}

/// Which exception comes first. The order of #NM and #UD for a tile that is not
/// configured is left out: the manual does not state it.
fn order(report: &mut Report) {
    begin();
    Config::FULL.load();
    arm(true);
    // Two operands must not be the same tile; the assembler refuses it.
    let same_tile = vector_of!(".byte 0xc4, 0xe2, 0x6b, 0x5e, 0xd0");
    report.equal(
        "amx: #UD for equal tiles comes before #NM",
        (same_tile, take_xfd_err()),
        (UD, 0),
    );
    try_xsetbv(0, offered_xcr0() & !AMX);
    let found = ON_DATA.map(|(_, instruction)| instruction());
    report.equal(
        "amx: #UD without XCR0 comes before #NM",
        (found, take_xfd_err()),
        ([UD; 9], 0),
    );
    try_xsetbv(0, offered_xcr0());
    set_osxsave(false);
    let found = ON_DATA.map(|(_, instruction)| instruction());
    set_osxsave(true);
    report.equal(
        "amx: #UD without CR4.OSXSAVE comes before #NM",
        (found, take_xfd_err()),
        ([UD; 9], 0),
    );

    arm(false);
    for pending in [0, TILEDATA] {
        wrmsr(XFD_ERR, pending);
        set_task_switched(true);
        let vector = vector_of!("fninit");
        set_task_switched(false);
        let what = format_args!("amx: #NM by CR0.TS leaves XFD_ERR = {pending:#x} alone");
        report.equal(what, (vector, take_xfd_err()), (NM, pending));
    }
}

/// LDTILECFG, STTILECFG and TILERELEASE (SDM Vol. 2, "LDTILECFG").
fn configuration(report: &mut Report) {
    report.equal(
        "amx: a full configuration is taken",
        load_config(&config(&[])),
        NONE,
    );
    report.equal(
        "amx: STTILECFG stores it",
        stored_config(),
        Some(config(&[])),
    );
    let mixed = config(&[(16, 4), (48, 3), (18, 60), (49, 16), (30, 0), (55, 0)]);
    report.equal(
        "amx: rows and columns keep their places",
        (load_config(&mixed), stored_config()),
        (NONE, Some(mixed)),
    );
    for (what, changes) in [
        ("an unknown palette", &[(0, 2)][..]),
        ("reserved bytes", &[(2, 1)]),
        ("more rows than the palette has", &[(48, 17)]),
        ("more columns than the palette has", &[(16, 65)]),
        ("rows without columns", &[(16, 0)]),
        ("columns without rows", &[(48, 0)]),
        ("a ninth tile", &[(32, 4), (56, 1)]),
    ] {
        report.equal(
            format_args!("amx: {what} raises #GP"),
            load_config(&config(changes)),
            GP,
        );
    }
    report.equal(
        "amx: a refused configuration changes nothing",
        stored_config(),
        Some(mixed),
    );
    Config::FULL.load();
    tiles::load(0, &tiles::pattern(0, 0));
    report.equal(
        "amx: TILEZERO zeroes",
        (vector_of!("tilezero tmm0"), tiles::store(0) == Tile::ZERO),
        (NONE, true),
    );
    tiles::release();
    report.equal(
        "amx: TILERELEASE leaves no configuration",
        stored_config(),
        Some([0; 64]),
    );
    report.equal("amx: TILERELEASE leaves nothing in use", in_use() & AMX, 0);
    report.equal(
        "amx: without a configuration a tile raises #UD",
        vector_of!("tilezero tmm0"),
        UD,
    );
    Config::FULL.load();
    report.equal(
        "amx: palette 0 leaves no configuration",
        (load_config(&[0; 64]), stored_config()),
        (NONE, Some([0; 64])),
    );
    let short = config(&[(18, 32)]);
    report.equal(
        "amx: operands that do not fit raise #UD",
        (load_config(&short), vector_of!("tdpbssd tmm0, tmm1, tmm2")),
        (NONE, UD),
    );
}
