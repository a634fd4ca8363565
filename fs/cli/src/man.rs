//! The man page strewn(1), generated from the definition of the commands. A test keeps man/strewn.1 the same.

use clap_mangen::Man;
use std::io::Write;

/// Environment variable under which the test writes the page instead of comparing it.
const UPDATE: &str = "STREWN_UPDATE_MAN";

/// Renders the page: the program, then every command with its options.
pub(crate) fn render() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let definition = crate::cli::definition().disable_help_subcommand(true);
    let man = Man::new(definition.clone()).date("2026").source("strewn").manual("Strewn");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    commands(&definition, "strewn", &mut page)?;
    page.write_all(CLOSING.as_bytes())?;
    Ok(page)
}

fn commands(parent: &clap::Command, path: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    for command in parent.get_subcommands().filter(|command| command.get_name() != "help") {
        let path = format!("{path} {}", command.get_name());
        let named = command.clone().bin_name(path.clone());
        writeln!(page, ".SS \"{path}\"")?;
        let about = named.get_long_about().or(named.get_about()).map(ToString::to_string).unwrap_or_default();
        writeln!(page, "{}", escape(&about))?;
        if named.has_subcommands() {
            commands(command, &path, page)?;
            continue;
        }
        let man = Man::new(named.disable_help_flag(true).disable_version_flag(true));
        let mut options = Vec::new();
        man.render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options).into_owned();
        // The section's heading becomes a paragraph: the command has the heading already.
        let body: Vec<&str> =
            options.lines().filter(|line| !line.starts_with(".SH") && !line.starts_with(".ie")).collect();
        let body = body.into_iter().filter(|line| !line.starts_with(".el")).collect::<Vec<_>>().join("\n");
        writeln!(page, ".PP\n{body}")?;
    }
    Ok(())
}

fn escape(text: &str) -> String {
    let lines = text.replace('\\', "\\\\").replace('-', "\\-");
    lines
        .lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { format!("{line}\n") })
        .collect()
}

const CLOSING: &str = r#".SH "JSON OUTPUT"
With \fB\-\-json\fR one object per line is printed on standard output. Fields may be added; those named here stay.
.TP
\fBstrewn umount\fR
\fBmountpoint\fR; \fBunmounted\fR: true or false; \fBpending\fR: what is not on the network, absent (null) for a stale
mount that was removed; \fBerror\fR: why it failed, or null.
.TP
\fBstrewn sync\fR
\fBmountpoint\fR; \fBsynced\fR: true or false; \fBpending\fR; \fBerror\fR.
.TP
\fBpending\fR
is an object of \fBfiles\fR, \fBbytes\fR, \fBchanges\fR (of names, attributes and content), \fBsending\fR (how many of the
bytes are on their way) and \fBrate\fR (bytes a second).
.SH "EXIT STATUS"
0 done, 1 failed, 2 used wrongly.
.SH FILES
.TP
~/.config/strewn/access/NAME
saved access grants
.TP
~/.cache/strewn
caches of mounted drives
.SH "SEE ALSO"
.BR mount (8),
.BR umount (8),
.BR fuse (4)
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../man/strewn.1");
        let page = render().unwrap();
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let committed = std::fs::read(path).unwrap_or_default();
        assert!(committed == page, "man/strewn.1 is old: run this test with {UPDATE}=1");
    }
}
