//! Imports point down only. The compiler does not hold this order inside a crate, so this test does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop and say where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file under `src/<layer>` may name `crate::<same or lower>` only.
const LAYERS: &[&[&str]] = &[
    &["transport", "compute", "meter"],
    &["collective"],
    &["protocol"],
    &["ops", "kernels"],
    &["layers"],
    &["train"],
    &["runtime"],
    &["world"],
];

/// Where `unsafe` may stand: kernels, the GPU collective, and what only the operating system can do.
const UNSAFE_ALLOWED: &[&str] = &[
    "party-node/src/compute/",
    "party-node/src/collective/nccl/",
    "party-node/src/runtime/process.rs",
    "tools/netbench/src/system.rs",
];

/// Crates of this workspace, as code names them, and which of the others each may name.
const CRATES: &[(&str, &str, &[&str])] = &[
    ("shared", "shared", &[]),
    ("model-files", "model_files", &["shared"]),
    ("party-node", "party_node", &["shared"]),
    ("plaintext", "plaintext", &["shared"]),
    ("orchestrator", "orchestrator", &["shared"]),
    ("launch", "launch", &["shared", "model_files", "orchestrator", "party_node", "plaintext"]),
    ("tools/netbench", "netbench", &[]),
];

#[test]
fn imports_point_down_only() {
    let root = workspace().join("party-node/src");
    let mut violations = Vec::new();
    for file in rust_files(&root) {
        let path = file.strip_prefix(&root).unwrap();
        let first = path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main", "bin"].contains(&first) {
            continue;
        }
        let Some(own) = level(first) else {
            violations.push(format!("{}: {first} is in no layer", path.display()));
            continue;
        };
        let code = code_of(&file);
        for named in crate_paths(&code) {
            if level(&named).is_some_and(|level| level > own) {
                violations.push(format!("{}: {first} names crate::{named}, which lies above it", path.display()));
            }
        }
        for name in LAYERS.concat().iter().filter(|name| code.contains(&format!("super::{name}::"))) {
            violations.push(format!("{}: reaches {name} by super::, write crate::{name}", path.display()));
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn crates_name_only_those_below_them() {
    let mut violations = Vec::new();
    for (folder, own, allowed) in CRATES {
        for file in rust_files(&workspace().join(folder).join("src")) {
            let code = code_of(&file);
            for (_, other, _) in CRATES.iter().filter(|(_, other, _)| other != own && !allowed.contains(other)) {
                if names_crate(&code, other) {
                    violations.push(format!("{} names {other}", file.display()));
                }
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn the_launcher_calls_a_party_only_by_its_entry_points() {
    let files = rust_files(&workspace().join("launch/src"));
    let deeper = files.iter().filter(|file| {
        let code = code_of(file);
        let calls = occurrences(&code, "party_node::");
        calls.into_iter().any(|after| !["run", "gpus", "kernels"].contains(&identifier(after).as_str()))
    });
    assert_eq!(deeper.collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let mut found = Vec::new();
    for (folder, _, _) in CRATES {
        for file in rust_files(&workspace().join(folder).join("src")) {
            let path = file.strip_prefix(workspace()).unwrap().to_str().unwrap().to_owned();
            let code = code_of(&file);
            let unsafe_code = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"];
            if unsafe_code.iter().any(|form| code.contains(form))
                && !UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed))
            {
                found.push(path);
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_scanner_sees_what_it_should() {
    let code = "use crate::{ops::relu, train::{sgd, batch}, meter};\nlet x = crate::world::World;";
    let named: BTreeSet<_> = crate_paths(code).into_iter().collect();
    assert_eq!(named, ["meter", "ops", "train", "world"].map(String::from).into());
    assert!(names_crate("use party_node::x;", "party_node") && !names_crate("my_party_node::x", "party_node"));
    assert!(level("transport") < level("runtime"));
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn level(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&layer))
}

/// All Rust files below a folder but those that hold only tests: tests may use the three-party world.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "tests") {
                files.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_none_or(|name| name != "tests.rs")
        {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A file without comments and without its test module, which comes last.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first name after each `crate::`, also those within `crate::{..}`.
fn crate_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for after in occurrences(code, "crate::") {
        match after.strip_prefix('{') {
            Some(group) => paths.extend(first_names(group)),
            None => paths.push(identifier(after)),
        }
    }
    paths
}

/// The names that begin each branch of a `use` group, up to its closing brace.
fn first_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut expect_name) = (Vec::new(), 1, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => expect_name = true,
            c if expect_name && c.is_alphabetic() => {
                names.push(identifier(&group[at..]));
                expect_name = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Whether code names another crate, as a whole word.
fn names_crate(code: &str, name: &str) -> bool {
    !occurrences(code, &format!("{name}::")).is_empty()
}

/// What follows each occurrence of `needle` that is not the tail of a longer name or path.
fn occurrences<'a>(code: &'a str, needle: &str) -> Vec<&'a str> {
    let starts_name = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    code.match_indices(needle).filter(|(at, _)| starts_name(*at)).map(|(at, _)| &code[at + needle.len()..]).collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
