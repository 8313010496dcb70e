//! Keeps `docs/command-line.md` what the table of options says. With
//! `UPDATE_DOCS` set in the environment it is written anew.

use overcast_core::cmdline::{IGNORED, TABLE};
use std::fmt::Write as _;
use std::path::Path;

fn document() -> String {
    let mut out = String::from(
        "# The hypervisor's command line\n\n\
         Options are spelled as in Xen: `option`, `option=value`, and for what is on or off also\n\
         `no-option` (`yes`, `on`, `true`, `enable`, `1` and their opposites are all understood).\n\
         A later option overrides an earlier one. What follows a lone `--` is added to Dom0's\n\
         command line. An unknown option is named in a warning, a malformed one in an error that\n\
         says what was expected; neither keeps the machine from booting.\n\n\
         This file is made from the table in `hypervisor/core/src/cmdline/`; a test keeps it so\n\
         (`UPDATE_DOCS=1 cargo test -p overcast-tests --test command_line_doc` writes it).\n\n\
         | option | default | meaning |\n|---|---|---|\n",
    );
    let cell = |text: &str| text.replace('|', "\\|");
    for option in TABLE {
        let form = match option.form {
            "" => String::new(),
            form => format!("={form}"),
        };
        let default = match option.default {
            "" => String::new(),
            default => format!("`{}`", cell(default)),
        };
        let (name, help) = (option.name, cell(option.help));
        writeln!(out, "| `{name}{}` | {default} | {help} |", cell(&form)).unwrap();
    }
    let ignored: Vec<_> = IGNORED.iter().map(|name| format!("`{name}`")).collect();
    write!(
        out,
        "\n## Options of Xen without effect\n\n\
         They are accepted, and a line says that they have no effect here: {}.\n",
        ignored.join(", ")
    )
    .unwrap();
    out
}

#[test]
fn the_document_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/command-line.md");
    let document = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &document).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == document,
        "docs/command-line.md is old: UPDATE_DOCS=1 cargo test -p overcast-tests --test command_line_doc"
    );
}
