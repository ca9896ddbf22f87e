//! The bundle's description: TOML for people, packed for the hypervisor.

use crate::{build, linux, project::root, size};
use anyhow::{Context, Result};
use guest_loader::bundle::{self, StateRegisters, Vm, VmConfig, XstateDescription};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The bundle that `cargo xtask run` takes by default.
pub fn default() -> PathBuf {
    root().join("tests/bundles/amx-demo.toml")
}

/// An image named so is a payload of `tests/guests`, built on the way.
const PAYLOAD: &str = "payload:";
/// An image named so is the kernel of a package of Debian's, `SUITE/PACKAGE`.
const DEBIAN: &str = "debian:";
/// An initrd named so is made of busybox and an init of `tests/linux`.
const INITRAMFS: &str = "initramfs:";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    vm: Vec<VmDescription>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VmDescription {
    name: String,
    image: String,
    initrd: Option<String>,
    #[serde(default)]
    cmdline: String,
    memory: String,
    #[serde(default = "one")]
    vcpus: u32,
    #[serde(default)]
    cpus: Vec<u32>,
    #[serde(default = "default_slice")]
    slice_us: u32,
    #[serde(default)]
    xstate: XstateDescription,
    state: Option<StateDescription>,
}

/// The extended state that a vCPU begins with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateDescription {
    /// An image in the standard XSAVE format.
    image: String,
    xcr0: u64,
    #[serde(default)]
    xfd: u64,
}

fn default_slice() -> u32 {
    bundle::DEFAULT_SLICE_US
}

fn one() -> u32 {
    1
}

/// Packs the bundle that the TOML file at `path` describes.
///
/// # Errors
/// Names the file, and the line, VM or image that is wrong.
pub fn pack_file(path: &Path) -> Result<Vec<u8>> {
    let text = fs::read_to_string(path).with_context(|| format!("bundle {}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    pack(&text, folder).with_context(|| format!("bundle {}", path.display()))
}

/// Packs the bundle that `text` describes; its images are looked for in `folder`.
///
/// # Errors
/// As [`pack_file`], without the file.
pub fn pack(text: &str, folder: &Path) -> Result<Vec<u8>> {
    let description: Description = toml::from_str(text)?;
    let mut loaded = Vec::new();
    for vm in description.vm {
        let of_vm = || format!("VM {:?}", vm.name);
        let image = load(&vm.image, folder).with_context(of_vm)?;
        let initrd = vm
            .initrd
            .as_deref()
            .map(|name| load(name, folder))
            .transpose()
            .with_context(of_vm)?;
        let state = match &vm.state {
            Some(state) => {
                let registers = StateRegisters {
                    xcr0: state.xcr0,
                    xfd: state.xfd,
                };
                Some((registers, load(&state.image, folder).with_context(of_vm)?))
            }
            None => None,
        };
        let config = VmConfig {
            memory: size::parse(&vm.memory)
                .context("memory")
                .with_context(of_vm)?,
            name: vm.name,
            cmdline: vm.cmdline,
            vcpus: vm.vcpus,
            cpus: vm.cpus,
            slice_us: vm.slice_us,
            xstate: vm.xstate,
        };
        loaded.push((config, image, initrd, state));
    }
    let vms: Vec<Vm<'_>> = loaded
        .iter()
        .map(|(config, image, initrd, state)| Vm {
            config: config.clone(),
            image,
            initrd: initrd.as_deref(),
            state: state
                .as_ref()
                .map(|(registers, image)| (*registers, image.as_slice())),
        })
        .collect();
    Ok(bundle::pack(&vms)?)
}

fn load(name: &str, folder: &Path) -> Result<Vec<u8>> {
    if let Some(init) = name.strip_prefix(INITRAMFS) {
        return linux::initramfs(init, &[]);
    }
    let path = if let Some(payload) = name.strip_prefix(PAYLOAD) {
        build::payload(payload)?
    } else if let Some(package) = name.strip_prefix(DEBIAN) {
        linux::kernel(package)?
    } else {
        folder.join(name)
    };
    fs::read(&path).with_context(|| format!("image {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_loader::bundle::{Allocation, Bundle, Vector, XfdErr};

    const GOOD: &str = r#"
        [[vm]]
        name = "linux"
        image = "kernel"
        cmdline = "console=ttyS0"
        memory = "256M"
        vcpus = 2
        cpus = [0, 1]
        [vm.xstate]
        vector = "avx"
        amx = true
        allocation = "on-demand"
        xfd_err = "switch"
        [[vm]]
        name = "small"
        image = "kernel"
        initrd = "kernel"
        memory = "2M"
    "#;

    fn error(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kernel"), b"image").unwrap();
        format!("{:#}", pack(text, folder.path()).unwrap_err())
    }

    #[test]
    fn a_description_becomes_a_bundle() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kernel"), b"image").unwrap();
        let packed = pack(GOOD, folder.path()).unwrap();
        let bundle = Bundle::parse(&packed).unwrap();
        let [linux, small] = bundle.vms.as_slice() else {
            panic!("two VMs")
        };
        assert_eq!(linux.config.memory, 256 << 20);
        assert_eq!(
            (linux.config.vcpus, linux.config.cpus.as_slice()),
            (2, [0, 1].as_slice())
        );
        let expected = XstateDescription {
            vector: Vector::Avx,
            amx: true,
            allocation: Allocation::OnDemand,
            xfd_err: XfdErr::Switch,
        };
        assert_eq!(linux.config.xstate, expected);
        assert_eq!(small.config.xstate, XstateDescription::default());
        assert_eq!(
            (small.image, small.initrd),
            (b"image".as_slice(), Some(b"image".as_slice()))
        );
    }

    #[test]
    fn mistakes_are_named() {
        let typo = error(&GOOD.replace("allocation", "alocation"));
        assert!(
            typo.contains("alocation") && typo.contains("line 12"),
            "{typo}"
        );
        let size = error(&GOOD.replace("256M", "256"));
        assert!(
            size.contains("VM \"linux\": memory: size \"256\" has no unit"),
            "{size}"
        );
        let file = error(&GOOD.replace("initrd = \"kernel\"", "initrd = \"missing\""));
        assert!(
            file.contains("VM \"small\": image") && file.contains("missing"),
            "{file}"
        );
        let policy = error(&GOOD.replace("switch", "swap"));
        assert!(
            policy.contains("swap") && policy.contains("intercept"),
            "{policy}"
        );
        let twice = error(&GOOD.replace("\"small\"", "\"linux\""));
        assert!(twice.contains("another VM has the same name"), "{twice}");
    }
}
