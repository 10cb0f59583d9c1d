//! Every bit of a small log, flipped: nobody is ever given a wrong byte.
