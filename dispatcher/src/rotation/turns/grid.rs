//! Turns whose rank can be changed without a search. Knows nothing of the reasons for ranks and passes.

use super::Turn;
use super::bit_tree::BitTree;

/// The largest number of rows. Turns of further ranks find no place.
const MAX_ROWS: usize = u64::BITS as usize;

/// The smallest number of columns.
const MIN_COLUMNS: usize = 64;

/// The number of columns for each replica, at least. With fewer, more replicas lose their column before they are picked
/// again. With more, the columns in use are further apart in memory.
const COLUMNS_FOR_EACH: usize = 4;

/// The column of a replica that has none.
const NONE: u32 = u32::MAX;

/// A set of turns, of which each replica has one at most.
///
/// A pick gives a replica a new pass, mostly the highest one. An answer changes the rank and not the pass. So the columns
/// are a ring, in which the columns from the oldest to the newest are in the order of passes: each pick takes the oldest
/// column. Each rank has a row. A mark in a row and a column is a turn. No change of a turn searches or moves other
/// turns. A replica that was not picked while the ring went round loses its column.
#[derive(Debug, Default)]
pub(super) struct Grid {
    /// The last turn of the replica in each column. Their number is a power of two.
    turns: Vec<Turn>,
    /// The column of each replica, by its place in memory.
    columns: Vec<u32>,
    /// The oldest column.
    oldest: usize,
    /// Pass and place of the turn in the newest column.
    newest: (u64, u64),
    /// The ranks of the rows in ascending order.
    ranks: Vec<u32>,
    /// The rows in the same order.
    rows: Vec<Row>,
    /// A bit for each row that has a mark.
    marked_rows: u64,
}

#[derive(Debug)]
struct Row {
    /// The columns with a mark.
    marks: BitTree,
    /// The oldest column with a mark, if there is a mark.
    first: usize,
}

impl Grid {
    /// Adds `turn`. Returns the turn that has no place in the grid: `turn` itself if it would come between others or no
    /// row is free, or else the one that has lost its column.
    pub(super) fn insert(&mut self, turn: Turn) -> Option<Turn> {
        let has_column = self.has_column(&turn);
        if !has_column && (turn.pass, turn.place) <= self.newest {
            return Some(turn);
        }
        let slot = turn.slot as usize;
        if self.columns.len() <= slot {
            self.grow(slot + 1);
        }
        let Some(row) = self.row_for(turn.rank) else { return Some(turn) };
        let lost = if has_column { None } else { self.take_column(&turn) };
        let column = self.columns[slot] as usize;
        self.turns[column] = turn;
        self.mark(row, column);
        lost
    }

    /// Changes the rank of `turn`. Returns false, and changes nothing, if `turn` is not in the grid or `rank` has
    /// no row.
    pub(super) fn change_rank(&mut self, turn: &Turn, rank: u32) -> bool {
        let (Some((row, column)), Some(next)) = (self.find(turn), self.row(rank)) else { return false };
        self.turns[column].rank = rank;
        self.mark(next, column);
        self.unmark(row, column);
        true
    }

    /// Removes `turn`. Returns whether it was there.
    pub(super) fn remove(&mut self, turn: &Turn) -> bool {
        let found = self.find(turn);
        if let Some((row, column)) = found {
            self.unmark(row, column);
        }
        found.is_some()
    }

    /// The next turn.
    pub(super) fn first(&self) -> Option<&Turn> {
        let row = self.rows.get(self.marked_rows.trailing_zeros() as usize)?;
        Some(&self.turns[row.first])
    }

    /// All turns, the next one first.
    pub(super) fn iter<'a>(&'a self) -> impl Iterator<Item = &'a Turn> {
        let by_age =
            |Row { marks, .. }: &'a Row| marks.range(self.oldest..self.turns.len()).chain(marks.range(0..self.oldest));
        self.rows.iter().flat_map(by_age).map(|column| &self.turns[column])
    }

    fn row(&self, rank: u32) -> Option<usize> {
        self.ranks.iter().position(|&found| found == rank)
    }

    /// The row and the column of `turn`; `None` if it is not in the grid. The column of a replica has no mark but that of
    /// its turn, so a mark in the row of its rank is that of its turn.
    fn find(&self, turn: &Turn) -> Option<(usize, usize)> {
        let column = *self.columns.get(turn.slot as usize)? as usize;
        let row = self.row(turn.rank)?;
        self.rows[row].marks.contains(column).then_some((row, column))
    }

    fn mark(&mut self, row: usize, column: usize) {
        let is_first = self.marked_rows & 1 << row == 0 || self.age(column) < self.age(self.rows[row].first);
        let Row { marks, first } = &mut self.rows[row];
        marks.insert(column);
        if is_first {
            *first = column;
        }
        self.marked_rows |= 1 << row;
    }

    fn unmark(&mut self, row: usize, column: usize) {
        let Row { marks, first } = &mut self.rows[row];
        if marks.remove(column) {
            self.marked_rows &= !(1 << row);
        } else if *first == column {
            // The next mark in the ring. It is mostly near, so that the search is short.
            *first = marks.first_from(column + 1).or_else(|| marks.first_from(0)).expect("there are other marks");
        }
    }

    /// The number of columns that are older than `column`.
    fn age(&self, column: usize) -> usize {
        column.wrapping_sub(self.oldest) & (self.turns.len() - 1)
    }

    /// Whether the replica of `turn` has a column with the pass and the place of `turn`.
    fn has_column(&self, turn: &Turn) -> bool {
        let column = self.columns.get(turn.slot as usize).and_then(|&column| self.turns.get(column as usize));
        column.is_some_and(|found| (found.pass, found.place) == (turn.pass, turn.place))
    }

    /// Gives the oldest column to the replica of `turn`. Returns the turn that was there, if any.
    fn take_column(&mut self, turn: &Turn) -> Option<Turn> {
        let column = self.oldest;
        let before = self.turns[column];
        let mut lost = None;
        if self.owns(&before, column) {
            if let Some((row, column)) = self.find(&before) {
                self.unmark(row, column);
                lost = Some(before);
            }
            self.columns[before.slot as usize] = NONE;
        }
        self.columns[turn.slot as usize] = column as u32;
        self.newest = (turn.pass, turn.place);
        self.oldest = (column + 1) & (self.turns.len() - 1);
        lost
    }

    /// Whether `column` is still that of the replica of `turn`.
    fn owns(&self, turn: &Turn, column: usize) -> bool {
        self.columns.get(turn.slot as usize).is_some_and(|&owned| owned as usize == column)
    }

    /// The row of `rank`, which is a new one if there is none: one that has no marks if there are [`MAX_ROWS`]. `None` if
    /// all of these have marks.
    fn row_for(&mut self, rank: u32) -> Option<usize> {
        let row = self.row(rank);
        if row.is_some() {
            return row;
        }
        let mut marks = BitTree::new(self.turns.len());
        if self.rows.len() == MAX_ROWS {
            let unmarked = self.marked_rows.trailing_ones() as usize;
            if unmarked == MAX_ROWS {
                return None;
            }
            marks = self.rows.remove(unmarked).marks;
            self.ranks.remove(unmarked);
            let below = (1 << unmarked) - 1;
            self.marked_rows = self.marked_rows & below | self.marked_rows >> 1 & !below;
        }
        let index = self.ranks.partition_point(|&other| other < rank);
        self.ranks.insert(index, rank);
        self.rows.insert(index, Row { marks, first: 0 });
        let below = (1 << index) - 1;
        self.marked_rows = self.marked_rows & below | (self.marked_rows & !below) << 1;
        Some(index)
    }

    /// Makes room for replicas whose places in memory are below `slots`. Moves all turns, which is rare, because the room
    /// doubles each time.
    fn grow(&mut self, slots: usize) {
        self.columns.resize(slots.next_power_of_two(), NONE);
        let by_age = (self.oldest..self.turns.len()).chain(0..self.oldest);
        let owned = by_age.filter(|&column| self.owns(&self.turns[column], column));
        let kept: Vec<(Turn, Option<usize>)> =
            owned.map(|column| (self.turns[column], self.find(&self.turns[column]).map(|(row, _)| row))).collect();
        let count = (COLUMNS_FOR_EACH * self.columns.len()).max(MIN_COLUMNS);
        self.turns = vec![Turn { rank: 0, pass: 0, place: 0, slot: NONE }; count];
        for row in &mut self.rows {
            row.marks = BitTree::new(count);
        }
        self.oldest = kept.len();
        self.marked_rows = 0;
        for (column, (turn, row)) in kept.into_iter().enumerate() {
            self.turns[column] = turn;
            self.columns[turn.slot as usize] = column as u32;
            if let Some(row) = row {
                self.mark(row, column);
            }
        }
    }
}
