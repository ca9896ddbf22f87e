//! What the fuzz targets have found so far still passes.

#[expect(unreachable_pub, reason = "the fuzz targets have it as a library")]
#[path = "../fuzz/src/lib.rs"]
mod checks;

use std::{fs, path::Path};

fn replay(name: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files = 0;
    for file in fs::read_dir(folder).unwrap() {
        check(&fs::read(file.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 5, "{files} files");
}

#[test]
fn images_of_the_corpus() {
    replay("image", checks::image);
}

#[test]
fn bundles_of_the_corpus() {
    replay("bundle", checks::bundle);
}
