//! Lines of code: those on which a token lies, of what is compiled when no test is.

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Lines of the crate with the root module `root`.
///
/// # Errors
/// A file cannot be read, or is not Rust.
pub(super) fn lines(root: &Path) -> Result<usize> {
    let text = fs::read_to_string(root).with_context(|| root.display().to_string())?;
    let tokens: TokenStream = text
        .parse()
        .map_err(|error| anyhow::anyhow!("{}: {error}", root.display()))?;
    let mut found = Found::default();
    found.add(tokens);
    let mut sum = found.lines.len();
    for name in found.modules {
        sum += lines(&place(root, &name)?)?;
    }
    Ok(sum)
}

/// The file of module `name` of the module at `parent`.
fn place(parent: &Path, name: &str) -> Result<PathBuf> {
    let stem = parent.file_stem().context("a file")?;
    let is_folder = ["lib", "main", "mod"].iter().any(|of| stem == *of);
    let folder = match is_folder {
        true => parent.with_file_name(""),
        false => parent.with_extension(""),
    };
    let candidates = [format!("{name}.rs"), format!("{name}/mod.rs")];
    let mut candidates = candidates.iter().map(|file| folder.join(file));
    candidates
        .find(|file| file.is_file())
        .with_context(|| format!("module {name} of {}", parent.display()))
}

#[derive(Default)]
struct Found {
    lines: BTreeSet<usize>,
    /// Modules in files of their own.
    modules: Vec<String>,
}

impl Found {
    fn add(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut last = String::new();
        let mut module = None;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            if is_punct(token, '#') {
                // An inner attribute belongs to what it lies in.
                let inner = tokens.get(at).is_some_and(|next| is_punct(next, '!'));
                let behind = at + usize::from(inner) + 1;
                match tokens.get(behind - 1).map_or(Attribute::Other, attribute) {
                    Attribute::Documentation => {
                        at = behind;
                        continue;
                    }
                    Attribute::Test => {
                        // The item ends with its body or a semicolon.
                        let rest = tokens.iter().skip(behind);
                        at = behind + 1 + rest.take_while(|token| !ends_item(token)).count();
                        continue;
                    }
                    Attribute::Other => {}
                }
            }
            let text = token.to_string();
            if last == "mod" {
                module = Some(text.clone());
            } else if text == ";" {
                self.modules.extend(module.take());
            } else {
                module = None;
            }
            match token {
                TokenTree::Group(group) => {
                    self.mark(group.span_open());
                    self.mark(group.span_close());
                    self.add(group.stream());
                }
                token => self.mark(token.span()),
            }
            last = text;
        }
    }

    fn mark(&mut self, span: proc_macro2::Span) {
        self.lines.extend(span.start().line..=span.end().line);
    }
}

enum Attribute {
    Documentation,
    /// The item exists in tests only.
    Test,
    Other,
}

fn is_punct(token: &TokenTree, text: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == text)
}

/// What the token behind `#` or `#!` is.
fn attribute(token: &TokenTree) -> Attribute {
    let TokenTree::Group(group) = token else {
        return Attribute::Other;
    };
    let text = group.stream().to_string();
    if text.starts_with("doc =") {
        Attribute::Documentation
    } else if text.replace(' ', "") == "cfg(test)" {
        Attribute::Test
    } else {
        Attribute::Other
    }
}

fn ends_item(token: &TokenTree) -> bool {
    match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is_punct(token, ';'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_tests_are_no_code() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "lib.rs",
            "//! About it.\n\n/// A module.\nmod one;\n#[cfg(test)]\nmod two;\n\n// A note.\nfn f() {\n\n    \
             g(\"a\n b\");\n}\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n#[inline]\nfn last() {}\n",
        );
        write("one.rs", "//! One.\nfn g() {}\n");
        // The module; f with a text of two lines; the last with its attribute; g.
        let lines = lines(&folder.path().join("lib.rs")).unwrap();
        assert_eq!(lines, 1 + 4 + 2 + 1);
    }
}
