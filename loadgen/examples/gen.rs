use loadgen::shapes::*;
fn main(){ let a:Vec<String>=std::env::args().collect(); let (dir,n,seed)=(&a[1],a[2].parse::<u64>().unwrap(),a[3].parse::<u64>().unwrap()); std::fs::create_dir_all(dir).unwrap(); 
 let mut csv=String::from("file,label\n"); let par=2;
 std::thread::scope(|s|{ for t in 0..par { s.spawn(move||{ for i in (t..n).step_by(par as usize){ let d=draw(seed,i,&Style::default()); std::fs::write(format!("{dir}/{i:05}.jpg"),&d.jpeg).unwrap();}});}});
 for i in 0..n{ csv+=&format!("{i:05}.jpg,{}\n",LABELS[(i%12) as usize]); }
 std::fs::write(format!("{dir}/labels.csv"),csv).unwrap(); }
