// SPDX-License-Identifier: GPL-2.0

//! Tables for people.

use crate::group::Group;
use crate::keyed::Keyed;
use crate::paint::{self, Paint};
use crate::snapshot::Snapshot;
use crate::units;
use comfy_table::{presets, Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};

/// Everything in one table, with a line about the region above it.
pub fn status(snapshot: &Snapshot, paint: Paint) -> String {
    let mut text = region(snapshot);
    let head = [
        "CGROUP",
        "MODE",
        "COVERAGE",
        "PROTECTED",
        "REPLICAS",
        "LIMIT",
        "INTERVAL",
        "RESTORED",
        "LOST",
    ];
    let mut table = plain(paint);
    table.set_header(head.map(|name| styled(name, paint).add_attribute(Attribute::Bold)));
    for group in &snapshot.groups {
        table.add_row(row(group, paint));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    text.push('\n');
    text.push_str(&lines(&table));
    text
}

/// One line about the region.
fn region(snapshot: &Snapshot) -> String {
    let region = &snapshot.region;
    if region.total == 0 {
        return "region    none: nothing can be mirrored, `kmirrorctl region 1G` makes one\n"
            .into();
    }
    let node = match region.node {
        Some(node) => format!(", on node {node}"),
        None => String::new(),
    };
    let retired = match snapshot.stat.get("retired") {
        0 => String::new(),
        slots => format!(", {} lost to errors", units::pages(slots)),
    };
    format!(
        "region    {}, {} free{node}{retired}\n",
        units::bytes(region.total),
        units::bytes(region.free)
    )
}

fn row(group: &Group, paint: Paint) -> Vec<Cell> {
    let mode = if group.mode == group.mode_in_force {
        group.mode.clone()
    } else {
        format!("({})", group.mode_in_force)
    };
    let color = if group.is_protected() {
        Color::Green
    } else {
        Color::Reset
    };
    let coverage = match group.coverage_ppm {
        Some(ppm) if group.stat("protected") > 0 => {
            colored(&units::percent(ppm), paint::of_coverage(ppm), paint)
        }
        _ => Cell::new("-"),
    };
    let protected = match &group.stat {
        Some(stat) => units::pages(stat.get("protected")),
        None => "-".into(),
    };
    let lost = group.events.get("unrestorable");
    let number = |key: &str, color| match group.events.get(key) {
        0 => Cell::new("0"),
        number => colored(&units::count(number), color, paint),
    };
    vec![
        Cell::new(&group.path),
        colored(&mode, color, paint),
        coverage,
        Cell::new(protected),
        Cell::new(units::bytes(group.replica_bytes)),
        Cell::new(group.max_bytes.map_or("-".into(), units::bytes)),
        Cell::new(format!("{} ms", group.interval_ms)),
        number("restored", Color::Green),
        if lost > 0 {
            number("unrestorable", Color::Red)
        } else {
            Cell::new("0")
        },
    ]
}

/// All about one cgroup.
pub fn detail(group: &Group, paint: Paint) -> String {
    let mut table = plain(paint);
    let mut line = |key: &str, value: String| {
        table.add_row([styled(key, paint), Cell::new(value)]);
    };
    line("cgroup", group.path.clone());
    line(
        "mode",
        if group.mode == group.mode_in_force {
            group.mode.clone()
        } else {
            format!("{}, so {}", group.mode, group.mode_in_force)
        },
    );
    line("interval", format!("{} ms", group.interval_ms));
    line("limit", group.max_bytes.map_or("none".into(), units::bytes));
    line("replicas", units::bytes(group.replica_bytes));
    for (key, value) in group.events.iter() {
        line(key, units::count(value));
    }
    if let (Some(ppm), Some(stat)) = (group.coverage_ppm, &group.stat) {
        line("coverage", units::percent(ppm));
        for (key, value) in stat.iter() {
            if let Some(value) = stat_value(key, value, stat) {
                line(key, value);
            }
        }
    }
    for (key, value) in &group.other {
        for (at, text) in value.lines().enumerate() {
            line(if at == 0 { key } else { "" }, text.to_owned());
        }
    }
    lines(&table)
}

/// How a number of `mirror.stat` is shown; `None` for a reason that no page has.
fn stat_value(key: &str, value: u64, stat: &Keyed) -> Option<String> {
    match key {
        "protected" | "current" => Some(format!(
            "{} ({})",
            units::plural(value, "page"),
            units::pages(value)
        )),
        "scan_ns" | "copy_ns" => Some(match stat.get("epochs") {
            0 => units::time(value),
            epochs => format!(
                "{} ({} an epoch)",
                units::time(value),
                units::time(value / epochs)
            ),
        }),
        "epochs" | "late" | "scanned" | "copied" | "deferred" => Some(units::count(value)),
        _ if value == 0 => None,
        _ => Some(units::count(value)),
    }
}

/// A table of rows, with a head.
pub fn rows(head: &[&str], rows: &[Vec<String>], paint: Paint) -> String {
    let mut table = plain(paint);
    table.set_header(
        head.iter()
            .map(|name| styled(name, paint).add_attribute(Attribute::Bold)),
    );
    for row in rows {
        table.add_row(row);
    }
    lines(&table)
}

/// A table without lines, as those of ps and systemctl.
fn plain(paint: Paint) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if paint.is_on() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

/// The text of a table, without the blanks at both ends of its lines.
fn lines(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        text.push('\n');
    }
    text
}

fn styled(text: &str, paint: Paint) -> Cell {
    colored(text, Color::Cyan, paint)
}

fn colored(text: &str, color: Color, paint: Paint) -> Cell {
    let cell = Cell::new(text);
    if paint.is_on() {
        cell.fg(color)
    } else {
        cell
    }
}
